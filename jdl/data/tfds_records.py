"""TensorFlow Datasets (TFDS), read without TensorFlow: ArrayRecord in memory, or streamed."""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.cache import cache_dir, read_cache, write_cache
from jdl.data.dataset import Dataset
from jdl.data.source import MEMORY_BYTES, ArraySource, check_column
from jdl.types import Bounds, Error

CACHE_VERSION = 2  # of what is decoded: another number where columns get another type
CHUNK = 4096  # records decoded at a time


def tfds(
    name: str,
    *splits: str,
    data_dir: str | Path | None = None,
    stream: bool = False,
) -> tuple[Dataset, ...]:
    """Splits of a prepared TensorFlow Dataset: `train, test = tfds("fashion_mnist")`.

    `splits` may be slices, "train[:90%]". The supervised keys of the dataset become x and y, other
    features keep their names. A split of up to 4 GiB is decoded into memory, and cached on disk for
    the next run; larger ones, and any with `stream`, are read record by record. The folder is
    `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets. Raises `Error` where the dataset is
    unknown, or not prepared, with the command that prepares it.
    """
    builder = _builder(name, Path(data_dir) if data_dir else default_data_dir())
    return tuple(_dataset(builder, split, stream) for split in splits or ("train", "test"))


def default_data_dir() -> Path:
    """The folder of prepared datasets: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def known_datasets() -> list[str]:
    """The names of all datasets that the installed TFDS has a builder for."""
    import tensorflow_datasets

    return tensorflow_datasets.list_builders(with_community_datasets=False)


def unknown_dataset(name: str) -> Error:
    """The error for a dataset that TFDS does not have."""
    near = difflib.get_close_matches(name, known_datasets(), n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return Error(f"TensorFlow Datasets has no dataset {name!r}.{hint} Its catalog lists all names.")


def _builder(name: str, data_dir: Path) -> Any:
    import tensorflow_datasets

    folder = data_dir / name
    infos = [
        path
        for path in folder.glob("**/dataset_info.json")
        if "incomplete" not in str(path.relative_to(folder))
    ]
    versions = sorted(
        infos, key=lambda path: [int(n) if n.isdigit() else 0 for n in path.parent.name.split(".")]
    )
    if not versions:
        if name.split("/")[0] not in known_datasets():
            raise unknown_dataset(name)
        raise Error(
            f"The dataset {name} is not prepared in {data_dir}. Prepare it once: `jdl data prepare "
            f"{name}` downloads it; --from DIR reads the files of mnist or fashion_mnist from a "
            "folder."
        )
    newest = versions[-1].parent
    configs = sorted({path.parent.parent.name for path in versions})
    if len(configs) > 1:
        raise Error(
            f"{name} is prepared in {data_dir} in several configs, {', '.join(configs)}: name one, "
            f"as in {name}/{configs[0]}."
        )
    builder = tensorflow_datasets.builder_from_directory(newest)
    if builder.info.file_format.value != "array_record":
        raise Error(
            f"{newest} is prepared as {builder.info.file_format.value}, which only TensorFlow "
            f"reads: prepare it as array_record, with `jdl data prepare {name} --data-dir "
            "ELSEWHERE`."
        )
    return builder


def _dataset(builder: Any, split: str, stream: bool) -> Dataset:
    if split.split("[")[0] not in builder.info.splits:
        raise Error(
            f"{builder.info.name} has the splits {', '.join(builder.info.splits)}, not {split!r}."
        )
    records = Records(builder, split)
    rows = np.arange(len(records), dtype=np.int32)
    if stream or records.nbytes > MEMORY_BYTES:
        return Dataset(records, rows).streaming()
    return Dataset(ArraySource(_decode(records), records.labels), rows)


@dataclass(frozen=True, eq=False)
class Records:
    """A source that reads and decodes the ArrayRecord files of a TFDS split, record by record."""

    builder: Any
    split: str

    @cached_property
    def _source(self) -> Any:
        return self.builder.as_data_source(split=self.split)

    @cached_property
    def _names(self) -> dict[str, str]:
        """The column of each feature: x and y for the supervised keys."""
        keys = self.builder.info.supervised_keys or ()
        return {
            name: dict(zip(keys, "xy", strict=False)).get(name, name)
            for name in self.builder.info.features
        }

    def __len__(self) -> int:
        return len(self._source)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows, decoded."""
        records = self._source.__getitems__([int(row) for row in rows])
        return {
            column: check_column(column, [record[name] for record in records])
            for name, column in self._names.items()
        }

    @property
    def nbytes(self) -> int:
        """The decoded size in bytes; `sys.maxsize` where features have no fixed shape."""
        total = 0
        for name in self._names:
            feature = self.builder.info.features[name]
            if None in feature.shape or np.dtype(feature.np_dtype).kind not in "biuf":
                return sys.maxsize
            sample = np.zeros((1, *feature.shape), feature.np_dtype)
            total += check_column(self._names[name], sample).nbytes
        return total * len(self)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes of y."""
        label = next(
            (
                self.builder.info.features[name]
                for name, column in self._names.items()
                if column == "y"
            ),
            None,
        )
        return tuple(getattr(label, "names", ()))

    @property
    def bounds(self) -> Bounds:
        """The bounds of class labels: from 0 to the number of classes - 1."""
        classes = {
            c: getattr(self.builder.info.features[n], "num_classes", None)
            for n, c in self._names.items()
        }
        return {column: (0, count - 1) for column, count in classes.items() if count}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the record files; of files above 256 MiB only of their names and sizes."""
        digest = hashlib.sha256(self.split.encode())
        for path in sorted(Path(self.builder.data_dir).iterdir()):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            if path.stat().st_size <= MEMORY_BYTES // 16:
                digest.update(path.read_bytes())
        return digest.hexdigest()


def _decode(records: Records) -> dict[str, np.ndarray]:
    """All columns of the split, from jdl's cache, or else decoded and then cached."""
    folder = cache_dir() / "decoded" / f"{records.fingerprint}-{CACHE_VERSION}"
    cached = read_cache(folder)
    if cached is not None:
        return cached
    chunks = [
        records.take(rows)
        for rows in np.array_split(np.arange(len(records)), max(1, len(records) // CHUNK))
    ]
    columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    write_cache(folder, columns)
    return columns
