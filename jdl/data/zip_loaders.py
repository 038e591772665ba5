"""Several data loaders as one, for semi-supervised learning: unlabelled rows beside labelled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jdl.data.loader import DatasetLoader
from jdl.types import Array, Batch, Bounds, Error, Loader


def zip_loaders(data: DatasetLoader[Any], **others: DatasetLoader[Any]) -> ZippedLoader:
    """A data loader whose batch i is batch i of `data`, and beside it batch i of the others.

    `zip_loaders(labelled.shuffled(64, seed), unlabelled=rest.shuffled(448, seed))` has the columns
    of the labelled rows, such as x (64, ...), and those of the other loader with its name before
    theirs: `unlabelled_x` (64, 7, ...), `unlabelled_mask` (64, 7), ... So each row has its 7 others
    wherever batches are divided: among devices, processes and micro-batches. Each loader has its
    own order, transforms and epochs; an epoch of all is the longest. Raises `Error` unless the size
    of the others' batches is a multiple of that of `data`.
    """
    for name, other in others.items():
        if not isinstance(other, DatasetLoader) or not isinstance(data, DatasetLoader):
            raise Error("zip_loaders takes loaders that `shuffled` or `batches` of datasets made.")
        if other.batch_size % data.batch_size:
            raise Error(
                f"The batches of {name} have {other.batch_size} rows, which is no multiple of the "
                f"{data.batch_size} of the first loader: choose a multiple, so many a row."
            )
    return ZippedLoader(data, others)


@dataclass(frozen=True, eq=False)
class ZippedLoader(Loader):
    """Several loaders as one; see `zip_loaders`."""

    data: DatasetLoader[Any]
    others: Mapping[str, DatasetLoader[Any]]

    def __len__(self) -> int:
        return max(len(loader) for loader in (self.data, *self.others.values()))

    @property
    def spec(self) -> Batch:
        """The shapes and types of a batch."""
        of_others = {name: other.spec for name, other in self.others.items()}
        return jax.eval_shape(self._join, self.data.spec, of_others)

    def shard(self, part: slice) -> ZippedLoader:
        """The same loader for one process: each row of the part with its rows of the others."""
        first, end, _ = part.indices(self.batch_size)

        def of_other(other: DatasetLoader[Any]) -> DatasetLoader[Any]:
            ratio = other.batch_size // self.batch_size
            return other.shard(slice(first * ratio, end * ratio))

        others = {name: of_other(other) for name, other in self.others.items()}
        return replace(self, data=self.data.shard(part), others=others)

    def read(self, start: int = 0) -> Iterator[Any]:
        """The raw data of all loaders; rows from the host are grouped, so many to a row of data."""
        readers = {name: other.read(start) for name, other in self.others.items()}
        for raw in self.data.read(start):
            yield raw, {name: self._grouped(name, next(rows)) for name, rows in readers.items()}

    def batch(self, raw: Any, i: Array) -> Batch:
        """Batch i of each loader."""
        first, rest = raw
        return self._join(
            self.data.batch(first, i),
            {name: other.batch(_ungrouped(rest[name]), i) for name, other in self.others.items()},
        )

    @property
    def bounds(self) -> Bounds:
        """The bounds of all columns."""
        of_others = {
            f"{name}_{column}": bounds
            for name, other in self.others.items()
            for column, bounds in other.bounds.items()
        }
        return {**self.data.bounds, **of_others}

    @property
    def augmented(self) -> bool:
        """Whether rows of any loader are augmented."""
        return any(loader.augmented for loader in (self.data, *self.others.values()))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the fingerprints, with the names."""
        named = {"": self.data, **self.others}
        text = "\n".join(f"{name} {loader.fingerprint}" for name, loader in named.items())
        return hashlib.sha256(text.encode()).hexdigest()

    def _join(self, batch: Batch, others: Mapping[str, Batch]) -> Batch:
        rows = self.batch_size
        return {
            **batch,
            **{
                f"{name}_{column}": array.reshape(rows, -1, *array.shape[1:])
                for name, other in others.items()
                for column, array in other.items()
            },
        }

    @property
    def batch_size(self) -> int:
        """Rows in a batch of the first loader."""
        return self.data.batch_size

    def _grouped(self, name: str, raw: Any) -> Any:
        ratio = self.others[name].batch_size // self.batch_size

        def group(leaf: Any) -> Any:
            is_rows = isinstance(leaf, np.ndarray)
            return leaf.reshape(-1, ratio, *leaf.shape[1:]) if is_rows else leaf

        return jax.tree.map(group, raw)


def _ungrouped(raw: Any) -> Any:
    """The raw data as their loader made them; those with an order, on the device, are unchanged."""
    if "order" in raw:
        return raw
    columns = {name: c.reshape(-1, *c.shape[2:]) for name, c in raw["columns"].items()}
    return {**raw, "columns": columns}
