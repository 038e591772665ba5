"""Folders and tables of images: the pixels are Pillow's, nothing is lost without a word.

Seen to fail: without EXIF orientation, 16 bits divided by 256, transparency on black, folders that
are followed twice, splits taken for classes, a file lost that is read at the second try.
"""

import os
import struct
import sys
import zlib

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from PIL import Image, ImageOps

import jdl
from jdl.data import decoded_files, image_folder, images
from jdl.inspect.predict import predict
from jdl.inspect.restore import TrainedRun
from jdl.learners import jit_learner

RNG = np.random.default_rng(0)


def picture(height=20, width=30, channels=3):
    """A smooth picture, which JPEG hardly changes."""
    small = RNG.integers(0, 256, (4, 5, channels), np.uint8)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    image = Image.fromarray(small[..., 0] if channels == 1 else small, mode)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def save(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(path, **options)
    return path


def png(width, height):
    """A PNG whose header claims this size, with no pixels to speak of."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path):
    """Two classes of three images, with names that are awkward."""
    for name in ("cats/b 1.jpg", "cats/🐈.png", "cats/deep/a.webp"):
        save(tmp_path / "photos" / name)
    for name in (b"caf\xe9.jpg", b"z.PNG", b"-x.gif"):
        save(tmp_path / "photos" / "dogs" / os.fsdecode(name))
    return tmp_path / "photos"


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


KINDS = {
    "plain.jpg": lambda path: save(path),
    "turned.jpg": lambda path: save(path, exif=exif(6)),
    "grey.jpg": lambda path: save(path, picture(channels=1)),
    "cmyk.jpg": lambda path: save(path, picture().convert("CMYK")),
    "palette.png": lambda path: save(path, picture().quantize(16)),
    "black.png": lambda path: save(path, picture(channels=1).convert("1")),
    "moving.gif": lambda path: save(path, save_all=True, append_images=[picture(), picture()]),
    "moving.webp": lambda path: save(path, save_all=True, append_images=[picture()]),
    "tall.bmp": lambda path: save(path, picture(90, 10)),
    "one.tif": lambda path: save(path, picture(1, 1)),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_the_pixels_are_those_of_pillow(tmp_path, fit, channels):
    paths = [
        make(tmp_path / "p" / f"{n % 2}" / name) for n, (name, make) in enumerate(KINDS.items())
    ]
    data = image_folder(tmp_path / "p", (8, 12), fit=fit, channels=channels)
    mode = {1: "L", 3: "RGB"}[channels]
    fitted = {
        "crop": lambda image: ImageOps.fit(image, (12, 8), Image.Resampling.BILINEAR),
        "pad": lambda image: ImageOps.pad(image, (12, 8), Image.Resampling.BILINEAR),
        "stretch": lambda image: image.resize((12, 8), Image.Resampling.BILINEAR),
    }[fit]
    assert data.columns["x"].dtype == np.uint8
    found = dict(zip(data.source.files.paths, data.columns["x"], strict=True))
    for path in paths:
        image = ImageOps.exif_transpose(Image.open(path)).convert(mode)
        expected = np.asarray(fitted(image)).reshape(8, 12, channels)
        np.testing.assert_array_equal(found[path], expected, err_msg=path.name)


def test_transparency_becomes_white_and_16_bits_are_scaled(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    keyed = Image.new("RGB", (4, 4), (0, 0, 9)).quantize(2)
    save(tmp_path / "p" / "a" / "clear.png", clear)
    save(tmp_path / "p" / "a" / "half.png", half)
    save(tmp_path / "p" / "a" / "keyed.png", keyed, transparency=0)
    deep = np.full((4, 4), 32_896, np.uint16)  # 128 * 257
    save(tmp_path / "p" / "b" / "deep.png", Image.fromarray(deep))
    x = image_folder(tmp_path / "p", 4).columns["x"][:, 0, 0]
    assert x.tolist() == [[255, 255, 255], [255, 127, 127], [255, 255, 255], [128, 128, 128]]
    x = image_folder(tmp_path / "p", 4, channels=4).columns["x"][:, 0, 0]
    assert x[:2].tolist() == [[255, 0, 0, 0], [255, 0, 0, 128]]


def test_order_labels_and_awkward_names(photos):
    (photos / "Thumbs.db").write_bytes(b"")
    (photos / "cats" / "notes.txt").write_text("hello")
    (photos / ".hidden").mkdir()
    (photos / "cats" / ".DS_Store").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 files of other kinds are ignored"):
        data = image_folder(photos, 8)
    assert data.labels == ("cats", "dogs")
    names = [os.fsencode(path.relative_to(photos)) for path in data.source.files.paths]
    expected = ["cats/b 1.jpg", "cats/deep/a.webp", "cats/🐈.png"]
    assert names == [
        *map(os.fsencode, expected),
        b"dogs/-x.gif",
        b"dogs/caf\xe9.jpg",
        b"dogs/z.PNG",
    ]
    assert data.columns["y"].tolist() == [0, 0, 0, 1, 1, 1]
    assert data.source.files.places[4].endswith("dogs/caf\\xe9.jpg")
    (photos / "Thumbs.db").unlink()
    (photos / "cats" / "notes.txt").unlink()
    other = image_folder(photos, 8, labels=("birds", "dogs", "cats"))
    assert other.columns["y"].tolist() == [2, 2, 2, 1, 1, 1]
    assert other.labels == ("birds", "dogs", "cats")


def test_in_memory_cached_and_streamed_the_batches_are_the_same(photos, cache, monkeypatch):
    first = image_folder(photos, 8)
    assert len(list(cache.glob("decoded/*"))) == 1
    with monkeypatch.context() as patch:  # a decoder that is not called
        patch.setattr("jdl.data.image_files.open_image", None)
        cached = image_folder(photos, 8)
    streamed = image_folder(photos, 8, stream=True)
    with monkeypatch.context() as patch:
        patch.setattr(decoded_files, "MEMORY_BYTES", 8 * 8 * 3 * 6 - 1)
        large = image_folder(photos, 8)
    assert first.fits_on_device
    assert not streamed.fits_on_device
    assert large.source.memory is None
    for data in (cached, streamed, large):
        assert data.fingerprint == first.fingerprint
        assert data.bounds == first.bounds
        loader = data.shuffled(4, 3)
        for i, raw in zip(range(4), loader.read(), strict=False):
            batch = loader._jit_batch(raw, np.int32(i))
            for name, column in first.shuffled(4, 3)[i].items():
                np.testing.assert_array_equal(batch[name], column)
    assert image_folder(photos, 8, fit="pad").fingerprint != first.fingerprint
    assert image_folder(photos, 8, labels=("dogs", "cats")).fingerprint != first.fingerprint
    save(photos / "cats" / "b 1.jpg")
    assert image_folder(photos, 8).fingerprint != first.fingerprint
    with pytest.raises(jdl.Error, match=r"b 1.jpg cannot be read: it has changed since"):
        streamed.take(np.arange(6))


BAD = {  # what a file holds, and what is said of it
    "truncated.jpg": (
        lambda path: path.write_bytes(save(path, picture(200, 300)).read_bytes()[:-300]),
        "truncated",
    ),
    "header.jpg": (
        lambda path: path.write_bytes(save(path).read_bytes()[:200]),
        "Truncated|damaged",
    ),
    "empty.png": (lambda path: path.write_bytes(b""), "none of JPEG, PNG"),
    "text.jpg": (lambda path: path.write_text("hello"), "none of JPEG, PNG"),
    "script.png": (
        lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"),
        "none of JPEG, PNG",
    ),
    "bomb.png": (lambda path: path.write_bytes(png(100_000, 100_000)), "exceeds limit"),
    "large.png": (lambda path: path.write_bytes(png(9_000, 9_000)), "truncated|broken|damaged"),
    "phone.heic": (
        lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)),
        "none of JPEG",
    ),
    "gone.jpg": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "itself.jpg": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "pipe.jpg": (lambda path: os.mkfifo(path), "no regular file"),
    "floats.tif": (lambda path: save(path, Image.new("F", (4, 4))), "unknown range"),
}


def test_files_that_cannot_be_read_are_an_error_or_a_counted_skip(photos):
    clean = image_folder(photos, 8)
    for name, (make, _) in BAD.items():
        make(photos / "cats" / name)
    with pytest.raises(jdl.Error, match=r"12 of 18 files cannot be read") as error:
        image_folder(photos, 8)
    assert "and 2 more" in str(error.value)
    assert 'on_bad="skip"' in str(error.value)
    for _ in range(2):  # decoded, and then from the cache
        with pytest.warns(UserWarning, match=r"12 of 18 files .*\n(?s:.*)They are left out"):
            data = image_folder(photos, 8, on_bad="skip")
        assert len(data) == 6
        for name, (_, reason) in BAD.items():
            (told,) = (text for text in data.source.skipped if f"/{name}: " in text)
            assert any(word in told.split(f"{name}: ")[1] for word in reason.split("|")), told
        assert data.fingerprint == clean.fingerprint  # of what is kept
    with pytest.warns(UserWarning, match="left out"):
        streamed = image_folder(photos, 8, on_bad="skip", stream=True)
    for name, column in streamed.columns.items():
        np.testing.assert_array_equal(column, clean.columns[name])


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_that_can_be_read_at_the_second_try_is_not_lost(photos, monkeypatch, stream):
    read, rows = decoded_files.FileSource.read, []

    def fails_once(source, row):
        rows.append(row)
        if row == 1 and rows.count(1) == 1:
            raise OSError("the disk is away")
        return read(source, row)

    monkeypatch.setattr(decoded_files.FileSource, "read", fails_once)
    with pytest.raises(jdl.Error, match=r"1 of 6 files cannot be read:\n.*the disk is away"):
        image_folder(photos, 8, stream=stream)
    assert len(image_folder(photos, 8, stream=stream)) == 6


def test_targets_are_read_without_decoding(photos, monkeypatch):
    data = image_folder(photos, 8, stream=True)
    read, reads = decoded_files.FileSource.read, []
    monkeypatch.setattr(
        decoded_files.FileSource, "read", lambda source, row: reads.append(row) or read(source, row)
    )
    assert data.column("y").tolist() == [0, 0, 0, 1, 1, 1]
    assert len(reads) <= 1  # the first, for the columns' names


def test_links_that_loop_end_and_are_told(photos, tmp_path):
    save(tmp_path / "elsewhere" / "c.png")
    (photos / "cats" / "loop").symlink_to(photos)
    (photos / "cats" / "same").symlink_to(photos / "cats" / "deep")
    (photos / "dogs" / "more").symlink_to(tmp_path / "elsewhere")
    (photos / "dogs" / "file.webp").symlink_to(photos / "cats" / "deep" / "a.webp")
    with pytest.warns(UserWarning, match="2 links to folders that are read anyway"):
        data = image_folder(photos, 8)
    assert np.bincount(data.columns["y"]).tolist() == [3, 5]


def no_images(photos):
    (photos / "empty").mkdir()


def loose(photos):
    save(photos / "loose.jpg")


def splits(photos):
    (photos / "cats").rename(photos / "Train")
    (photos / "dogs").rename(photos / "test")


def one_class(photos):
    (photos / "cats").rename(photos.parent / "cats")


def not_utf8(photos):
    (photos / "cats").rename(photos / os.fsdecode(b"caf\xe9"))


REFUSED = [
    (no_images, {}, "The folder .*empty has no files that can be read"),
    (loose, {}, r"loose.jpg is in no class \(1 such files\)"),
    (splits, {}, "look like splits, not like classes"),
    (one_class, {}, "only the folder dogs, and a classifier needs two"),
    (not_utf8, {}, r"caf\\xe9 is not printable UTF-8"),
    (None, {"labels": ("cats", "birds")}, "folder dogs, which is none of the labels cats, birds"),
    (None, {"labels": ("cats", "dogs", "dogs")}, "name one class twice"),
    (None, {"channels": 2}, "1, 3 or 4 channels"),
    (None, {"fit": "cover"}, 'fit is "crop"'),
    (None, {"channels": "RGB"}, "channels is 1, 3 or 4, not 'RGB'"),
    (None, {"on_bad": "ignore"}, 'on_bad is "raise" or "skip"'),
    (None, {"size": 0}, "size is a number of pixels"),
]


@pytest.mark.parametrize(("change", "options", "message"), REFUSED)
def test_folders_that_cannot_be_classes_are_refused(photos, change, options, message):
    if change:
        change(photos)
    with pytest.raises(jdl.Error, match=message):
        image_folder(photos, **{"size": 8, **options})


def test_what_is_allowed_by_naming_the_labels(photos, tmp_path):
    no_images(photos)
    assert len(image_folder(photos, 8, labels=("cats", "dogs", "empty"))) == 6
    (tmp_path / "none").mkdir()
    with pytest.raises(jdl.Error, match="has no folders"):
        image_folder(tmp_path / "none", 8)
    with pytest.raises(jdl.Error, match="is not a folder"):
        image_folder(tmp_path / "nowhere", 8)
    for path in (photos / "cats").iterdir():
        if path.is_file():
            path.write_bytes(b"x")
    (photos / "cats" / "deep" / "a.webp").write_bytes(b"y")
    with (
        pytest.raises(jdl.Error, match="No file of the class cats can be read"),
        pytest.warns(UserWarning, match="3 of 6"),
    ):
        image_folder(photos, 8, labels=("cats", "dogs", "empty"), on_bad="skip")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_without_permission_are_named(photos):
    (photos / "cats" / "b 1.jpg").chmod(0)
    with pytest.raises(jdl.Error, match=r"b 1.jpg: Permission denied"):
        image_folder(photos, 8)


def test_images_of_a_table(photos, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text('\ufefffile, label,age\ncats/b 1.jpg,old,"7.5"\n\n"dogs/z.PNG",new,2\n')
    data = images(photos, table, np.int64(8), channels=np.int8(3))
    assert data.fingerprint == images(photos, table, (8, 8)).fingerprint
    assert data.labels == ("new", "old")
    assert data.columns["y"].tolist() == [1, 0]
    data = images(photos, table, 8, target="age")
    assert data.columns["y"].dtype == np.float32
    assert data.columns["y"].tolist() == [7.5, 2]
    assert data.labels == ()
    table.write_text("file,label\ncats/b 1.jpg,a\ndogs/gone.png,b\ndogs/z.PNG,b\n")
    with pytest.raises(jdl.Error, match=r"gone.png \(.*labels.csv, line 3\): No such file"):
        images(photos, table, 8)
    with pytest.warns(UserWarning, match="line 3"):
        assert len(images(photos, table, 8, on_bad="skip")) == 2


TABLES = [
    ("file,label\na.jpg,x\nb.jpg\n", {}, "line 3, has 1 values, but the header has 2"),
    ("file,label\na.jpg,x\nb.jpg,\n", {}, "line 3, has no value in column label"),
    ("file,kind\na.jpg,x\n", {}, "has the columns file, kind, and not label"),
    ("file,label,label\na,b,c\n", {}, "two columns label"),
    ("", {}, r"has the columns \(none\), and not file"),
    ("file,label\n", {}, "has no rows"),
    ("file,label\na.jpg,x\nb.jpg,x\n", {}, "only the class x"),
    ("file,label\na.jpg,x\nb.jpg,y\n", {"labels": ["x", "x", "y"]}, "name one class twice"),
    ("file,label\na.jpg,x\nb.jpg,y\n", {"labels": ["x"]}, "line 3: 'y' is none of the labels x"),
    ("file,age\na.jpg,x\n", {"target": "age"}, "line 2, column age: 'x' is not a number"),
    ("file,age\na.jpg,1e99\n", {"target": "age"}, "'1e99' is not a finite number"),
    ('file,label\n"a.jpg,x\n', {}, "line .*, is not CSV"),
    (b"file,label\n\xff\xfe\n", {}, "is not UTF-8"),
    (b"file,label\na\0.jpg,x\nb.jpg,y", {}, "cannot be read"),
]


@pytest.mark.parametrize(("text", "options", "message"), TABLES, ids=lambda value: str(value)[:25])
def test_tables_that_cannot_be_read_name_the_line(tmp_path, text, options, message):
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(jdl.Error, match=message):
        images(tmp_path, tmp_path / "t.csv", 8, **options)


def test_inputs_to_predict_are_decoded_like_the_training_images(tmp_path):
    """Bright and dark photos of any size, turned by EXIF: what was learnt holds for new files."""
    for n in range(8):
        for name, level in (("dark", 40), ("light", 210)):
            save(
                tmp_path / "p" / name / f"{n}.png", Image.new("RGB", (9 + n, 12), (level + n,) * 3)
            )
    data = image_folder(tmp_path / "p", 4)
    model = nn.Sequential([Flat(), nn.Dense(2)])
    learner = jit_learner(jdl.descent(jdl.objectives.classify(model), optax.adam(0.1)))
    loader = data.shuffled(16, 0)
    state = learner.init(jax.random.key(0), loader[0])
    for i in range(20):
        state, _ = learner.step(state, loader[i])
    run = jdl.Run(jdl.Config("p"), learner, loader, test=data.batches(4), labels=data.labels)
    new = save(tmp_path / "new.jpg", Image.new("L", (100, 70), 45), exif=exif(8))
    (row,) = predict(TrainedRun(run, state), [new])
    assert row["label"] == "dark"
    whole = predict(TrainedRun(run, state), list(data.source.files.paths))
    assert [row["label"] for row in whole] == ["dark"] * 8 + ["light"] * 8
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(100_000, 100_000))
    with pytest.raises(jdl.Error, match=r"bomb.png cannot be read: .*exceeds limit"):
        predict(TrainedRun(run, state), [bomb])


class Flat(nn.Module):
    def __call__(self, x):
        return x.reshape(len(x), -1)


def test_a_progress_bar_is_shown_on_a_terminal_only(photos, capsys, monkeypatch):
    image_folder(photos, 8)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    image_folder(photos, 9)
    assert "decoding" in capsys.readouterr().err
