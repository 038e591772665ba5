"""Preparing datasets for TFDS: MNIST's own file format without TensorFlow, everything else by TFDS itself."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.tfds_records import default_data_dir, known_datasets, unknown
from jdl.types import Error

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

# SHA-256 of the uncompressed files.
SUMS = {
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
}


def prepare(name: str, source: Path | None = None, data_dir: Path | None = None) -> Path:
    """Prepares a dataset as ArrayRecord under `data_dir` and returns its folder; prepared ones are left as they are.

    With `source`, a folder of the four IDX files of mnist or fashion_mnist (.gz or not), nothing is downloaded.
    Raises `Error`, before anything is written, where a file is missing, damaged or not the published one.
    """
    data_dir = data_dir or default_data_dir()
    if name not in known_datasets():
        raise unknown(name)
    if source and name not in SUMS:
        raise Error(f"--from reads the files of {' and '.join(SUMS)}; for {name}, leave it out.")
    if source:
        for files in FILES.values():
            for file in files:
                read_idx(_find(source, file), SUMS[name][file])
    builder = (
        _idx_builder(name, source, data_dir) if name in SUMS else _stock_builder(name, data_dir)
    )
    if not builder.is_prepared():
        if not source:
            _check_network(name, builder)
        _run(builder, name, source)
    return Path(builder.data_dir)


def _run(builder: Any, name: str, source: Path | None) -> None:
    import tensorflow_datasets

    config = tensorflow_datasets.download.DownloadConfig(manual_dir=source)
    try:
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except ImportError as error:
        raise Error(
            f"Preparing {name} needs TensorFlow ({error}); reading it afterwards does not. Install it for this once: "
            "pip install 'jdl[tfds-prepare]'."
        ) from error
    except OSError as error:
        raise Error(f"Preparing {name} in {builder.data_dir} failed: {error}.") from error


def _stock_builder(name: str, data_dir: Path) -> Any:
    import tensorflow_datasets

    return tensorflow_datasets.builder(name, data_dir=data_dir, file_format="array_record")


def _idx_builder(name: str, source: Path | None, data_dir: Path) -> Any:
    """The stock builder of `name` with another way to read the raw files: same features, same records."""
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
            pictures = read_idx(images, SUMS[name][files[0]])
            for row, label in enumerate(read_idx(labels, SUMS[name][files[1]])):
                yield row, {"image": _png(pictures[row]), "label": int(label)}

    Idx.name = name
    return Idx(data_dir=data_dir, file_format="array_record")


def _find(folder: Path, file: str) -> Path:
    for path in (folder / file, folder / f"{file}.gz"):
        if path.is_file():
            return path
    raise Error(
        f"{folder} has no file {file} or {file}.gz: --from takes the folder with the four files that MNIST and its "
        "like are published as."
    )


def read_idx(path: Path, promised: str | None = None) -> np.ndarray:
    """The array of bytes in an IDX file, gzipped or not; `Error` where it is not one, or not the `promised` SHA-256.

    The format: two zero bytes, the type (8: unsigned bytes), the rank, each side as a big-endian uint32, the bytes.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise Error(f"{path} cannot be read: {error}. Fetch it again.") from error
    rank = content[3] if len(content) > 3 and content[:3] == b"\0\0\x08" else 0
    if not rank or len(content) < 4 + 4 * rank:
        raise Error(
            f"{path} is not an IDX file of bytes: it begins with {content[:4].hex(' ') or 'nothing'}."
        )
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    array = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if array.size != np.prod(shape, dtype=object):
        raise Error(
            f"{path} promises {shape} bytes and holds {array.size}: it is cut off or damaged; fetch it again."
        )
    found = hashlib.sha256(content).hexdigest()
    if promised and found != promised:
        raise Error(
            f"{path} is not the published file: its content has the SHA-256 {found}, and {promised} was promised. "
            "Is it of another dataset? Else fetch it again."
        )
    return array.reshape(shape)


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _check_network(name: str, builder: Any) -> None:
    """Raises at once where the first download cannot succeed: TFDS itself would try for minutes."""
    urls = (
        [f"{builder.URL}{FILES['train'][0]}.gz"] if name in SUMS else list(builder.url_infos or ())
    )
    if not urls:
        return
    try:
        urllib.request.urlopen(urllib.request.Request(urls[0], method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return  # the host answers: TFDS will say what it thinks of the file
    except OSError as error:
        files = (
            f", or, with its files at hand, run `jdl data prepare {name} --from DIR`"
            if name in SUMS
            else ""
        )
        raise Error(
            f"{name} cannot be downloaded from {urls[0]}: {error}. Mend the network{files}."
        ) from error
