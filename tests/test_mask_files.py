"""Images and masks in two folders: pairs, sizes, unknown pixels, and what is refused.

Seen to fail: with images and masks paired by their sorted places, with masks that are
interpolated, with void that is a class, with classes beyond the labels, of one class
alone, with labels that stay, or do not move sidewards, or come from a fill.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jdl
from jdl.data.augment import on_x

MOVES = {  # and what they put where no pixel comes from
    "flip": (jdl.data.random_flip(), 0),
    "crop": (jdl.data.random_crop(3, fill=1), 1),
    "affine": (jdl.data.random_affine(rotation=30, shift=2, zoom=0.2), 0),
    "erase": (jdl.data.random_erase(5, probability=1.0), 0),
}
LABELS = ("road", "car", "tree")


def save(path, pixels, mode=None):
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([n for k in range(256) for n in (k, 255 - k, 7 * k % 256)])
    image.save(path)


@pytest.fixture
def folders(tmp_path):
    """Three photos, 8 high and 12 wide: squares in red, green or blue, by their class."""
    rng = np.random.default_rng(0)
    for n in range(3):
        classes = rng.integers(0, 3, (2, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        save(tmp_path / "photos" / f"{n}.png", 200 * np.eye(3, dtype=np.uint8)[classes])
        if n == 1:
            classes[:, :2] = 255
        save(tmp_path / "masks" / f"{n}.png", classes, "P" if n == 2 else None)
    (tmp_path / "photos" / ".hidden.png").write_text("")
    return tmp_path


def read(folders, size=(8, 12), **options):
    return jdl.data.image_masks(
        folders / "photos", folders / "masks", size, labels=LABELS, **options
    )


def test_masks_are_those_of_their_images(folders):
    data = read(folders)
    x, y = data.columns["x"], data.columns["y"]
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((3, 8, 12, 3), (3, 8, 12), np.uint8, np.int32)
    known = y >= 0
    np.testing.assert_array_equal(x[known].argmax(-1), y[known])
    unknown = np.zeros((3, 8, 12), bool)
    unknown[1, :, :2] = True
    np.testing.assert_array_equal(known, ~unknown)
    assert data.labels == LABELS
    assert data.batches(2).bounds["y"] == (-1, 2)
    save(folders / "masks" / "1.png", np.zeros((8, 12), np.uint8))
    assert read(folders).fingerprint != data.fingerprint


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_a_mask_goes_the_way_of_its_image(folders, fit):
    """To half the size and another shape: by its nearest pixels, unknown where an image ends."""
    data = read(folders, (4, 4), fit=fit)
    x, y = data.columns["x"], data.columns["y"]
    clear = (y >= 0) & (x.max(-1) == 200)  # where interpolation mixed no classes
    assert clear.mean() > 0.2
    np.testing.assert_array_equal(x[clear].argmax(-1), y[clear])
    of_class = np.take_along_axis(x, y.clip(0)[..., None], -1)[..., 0]
    assert (of_class > 0)[y >= 0].all()
    if fit == "pad":
        assert (y[:, -1] == -1).all()
        assert (x[:, -1] == 0).all()


def test_new_images_are_read_alike(folders):
    data = read(folders, 4, channels=1)
    names, columns = data.source.read_file(folders / "photos" / "1.png")
    assert names == [str(folders / "photos" / "1.png")]
    np.testing.assert_array_equal(columns["x"][0], data.columns["x"][1])
    assert data.source.read_file(folders / "labels.csv") is None


def broken(folders, name, pixels):
    save(folders / "masks" / name, pixels)


def turn(folders):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = Image.fromarray(np.zeros((8, 12, 3), np.uint8))
    image.save(folders / "photos" / "1.png", exif=exif)


REFUSED = {
    "turned": (turn, r"photos/1.png cannot be read: it is turned by its EXIF orientation \(3\)"),
    "16 bits": (
        lambda f: broken(f, "0.png", np.zeros((8, 12), np.uint16)),
        r"more than 8 bits \(I;16\): save it as a gray image",
    ),
    "class": (
        lambda f: broken(f, "0.png", np.full((8, 12), 3, np.uint8)),
        r"masks/0.png cannot be read: its pixel in row 0, column 0 is 3, and there are 3 labels",
    ),
    "colors": (
        lambda f: broken(f, "0.png", np.zeros((8, 12, 3), np.uint8)),
        r"it has colors \(RGB\), and a pixel of a mask is the number of its class",
    ),
    "size": (
        lambda f: broken(f, "0.png", np.zeros((8, 8), np.uint8)),
        r"it has 8 x 8 pixels, and its image 12 x 8",
    ),
    "jpeg": (
        lambda f: (
            save(f / "masks" / "0.jpg", np.zeros((8, 12), np.uint8))
            or (f / "masks" / "0.png").unlink()
        ),
        "it is a JPEG, which changes numbers",
    ),
    "one class": (
        lambda f: [
            broken(f, f"{n}.png", np.full((8, 12), 255 * (n % 2), np.uint8)) for n in range(3)
        ],
        r"All pixels of the masks are road or void \(255\)",
    ),
    "no mask": (lambda f: (f / "masks" / "2.png").unlink(), r"photos/2.png has no mask"),
    "no image": (lambda f: (f / "photos" / "2.png").unlink(), r"masks/2.png has no image"),
    "twice": (
        lambda f: save(f / "photos" / "2.jpg", np.zeros((8, 12, 3), np.uint8)),
        r"2.jpg and .*2.png have the same name but for the suffix",
    ),
    "damaged": (lambda f: (f / "masks" / "1.png").write_bytes(b"no"), r"masks/1.png cannot be"),
    "empty": (
        lambda f: [path.unlink() for path in (*f.glob("*/?.png"),)],
        "There are no images in",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(folders, name):
    breaks, message = REFUSED[name]
    breaks(folders)
    with pytest.raises(jdl.Error, match=message):
        read(folders)


@pytest.mark.parametrize("name", MOVES)
def test_labels_move_with_their_pixels(name):
    """Of images whose brightness is their label, in blocks; unknown where the fill is."""
    move, fill = MOVES[name]
    blocks = np.random.default_rng(1).integers(2, 5, (8, 4, 5)).repeat(4, 1).repeat(4, 2)
    data = jdl.data.arrays(x=blocks[..., None].astype(np.float32), y=blocks)
    batch = data.shuffled(8, 0, jdl.data.move_labels(move))[0]
    alone = data.shuffled(8, 0, move)[0]
    np.testing.assert_allclose(batch["x"], alone["x"], atol=1e-5)  # two programs: they round apart
    x, y = np.asarray(batch["x"])[..., 0], np.asarray(batch["y"])
    assert y.shape == (8, 16, 20)
    assert (x != blocks[np.asarray(batch["id"])]).any()
    inside = (x != fill) & (y >= 0)
    assert abs(x - y)[inside].max() < 2.5  # between blocks of 2 and of 4
    assert (abs(x - y)[inside] < 1e-3).mean() > (0.5 if name == "affine" else 0.999)
    assert (y[x == fill] == -1).all()
    assert ((y == -1).mean() > 0) == (name != "flip")


@pytest.mark.slow
def test_what_moves_no_pixels_is_refused():
    with pytest.raises(jdl.Error, match="for transforms that move the pixels"):
        jdl.data.move_labels(jdl.data.color_jitter(0.5))
    data = jdl.data.arrays(x=np.zeros((4, 16, 20, 3), np.float32), y=np.zeros((4, 16, 20), int))
    brighter = on_x(lambda key, x: jnp.where(jax.random.bernoulli(key), 1.2 * x, x))
    for change in (jdl.data.gaussian_noise(0.1), brighter):
        with pytest.raises(jdl.Error, match="for transforms that move the pixels"):
            data.shuffled(4, 0, jdl.data.move_labels(change))[0]
