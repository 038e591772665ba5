"""Batches of examples: `data[i]` is a function of i, in memory on the device or read ahead from the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import count, repeat
from typing import TYPE_CHECKING, Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.augment import Transform
from jdl.data.order import epoch_order
from jdl.keys import stream
from jdl.types import Array, Batch, Bounds

if TYPE_CHECKING:
    from jdl.data.dataset import Dataset

READ_AHEAD = 8  # batches that a stream holds ready


@dataclass(frozen=True, eq=False)
class DatasetLoader:
    """The `Data` of a table of examples: epochs of batches of one size, the last one padded and masked.

    Every batch has the table's columns and besides `mask` (B,), false in padding, and `id` (B,), the example's row
    in its source. Images of bytes come as float32 from 0 to 1. Example `id` of an epoch is augmented by a key made
    of (seed, epoch, id): the same however the batches are cut or read.
    """

    examples: Dataset
    size: int
    seed: int | None = None  # None: the table's own order, in every epoch
    transforms: tuple[Transform, ...] = ()
    part: slice | None = None  # the rows of a batch that `read` reads; all by default

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def __getitem__(self, i: int) -> Batch:
        source = self._resident(i // len(self)) if self.examples.resident else self._gathered(i)
        return self._compiled(source, jnp.asarray(i, jnp.int32))

    def shard(self, part: slice) -> DatasetLoader:
        """The same batches, of which `read` reads no more than that part of the rows ahead."""
        return replace(self, part=part)

    def read(self, start: int = 0) -> Iterator[Any]:
        """What batches start, start + 1, ... are made of: arrays on the device, or rows read ahead by threads."""
        if self.examples.resident:
            return self._read_resident(start)
        endless = grain.MapDataset.range(start, np.iinfo(np.int32).max).map(
            lambda i: self._gathered(i, self.part or slice(None))
        )
        return iter(
            endless.to_iter_dataset(
                grain.ReadOptions(num_threads=4, prefetch_buffer_size=READ_AHEAD)
            )
        )

    def _read_resident(self, start: int) -> Iterator[Any]:
        first, behind = divmod(start, len(self))
        yield from repeat(self._resident(first), len(self) - behind)
        for epoch in count(first + 1):
            yield from repeat(self._resident(epoch), len(self))

    def batch(self, source: Any, i: Array) -> Batch:
        """Batch i from what `read` yields for it: gathers, masks, scales and augments; pure, for use within a jit."""
        place = i % len(self)
        mask = jnp.arange(self.size) + place * self.size < self.rows
        columns = dict(source["columns"])
        if "order" in source:
            rows = jax.lax.dynamic_slice_in_dim(source["order"], place * self.size, self.size)
            columns = {
                name: column.at[rows].get(mode="promise_in_bounds")
                for name, column in columns.items()
            }
        columns = {name: scaled(column) for name, column in columns.items()}
        if self.transforms:
            epoch = stream(source["key"], "augment", i // len(self))
            keys = jax.vmap(jax.random.fold_in, (None, 0))(epoch, columns["id"])
            columns = jax.vmap(self._transformed)(keys, columns)
        return {**columns, "mask": mask}

    def _transformed(self, key: Array, example: Batch) -> Batch:
        for n, transform in enumerate(self.transforms):
            example = transform(jax.random.fold_in(key, n), example)
        return example

    @cached_property
    def spec(self) -> Batch:
        """The shapes and types of a batch, without making one."""
        source = {
            "columns": self.examples.take(np.zeros(self.size, np.int32)),
            "key": jax.eval_shape(jax.random.key, 0),
        }
        return jax.eval_shape(self.batch, source, jax.ShapeDtypeStruct((), jnp.int32))

    @property
    def rows(self) -> int:
        """Examples in an epoch."""
        return len(self.examples)

    @property
    def bounds(self) -> Bounds:
        """The least and greatest value of each column, where known; of numbers, not where transforms may move them."""
        known = dict(self.examples.bounds)
        for name, column in self.spec.items():
            if name not in known or not jnp.issubdtype(column.dtype, jnp.floating):
                continue
            if self.transforms:
                del known[name]
            elif name in self._images:
                known[name] = (known[name][0] / 255, known[name][1] / 255)
        return known

    @cached_property
    def _images(self) -> set[str]:
        """The columns that are stored as bytes and come as numbers from 0 to 1."""
        row = self.examples.take(np.zeros(1, np.int32))
        return {
            name for name, column in row.items() if column.dtype == np.uint8 and column.ndim > 1
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the examples."""
        return self.examples.fingerprint

    @cached_property
    def _compiled(self) -> Callable[[Any, Array], Batch]:
        return jax.jit(self.batch)

    @cached_property
    def _key(self) -> Array:
        return jax.random.key(self.seed or 0)

    @cached_property
    def _order(self) -> Callable[[int], np.ndarray]:
        return lru_cache(maxsize=2)(
            lambda epoch: epoch_order(self.rows, self.size, self.seed, epoch)
        )

    def _resident(self, epoch: int) -> Any:
        return {
            "columns": self.examples.on_device,
            "order": jax.device_put(self._order(epoch)),
            "key": self._key,
        }

    def _gathered(self, i: int, part: slice = slice(None)) -> Any:
        epoch, place = divmod(i, len(self))
        rows = self._order(epoch)[place * self.size : (place + 1) * self.size][part]
        return {"columns": self.examples.take(rows), "key": self._key}


def scaled(column: Array) -> Array:
    """Images of bytes as float32 from 0 to 1; any other column as it is."""
    if column.dtype != jnp.uint8 or column.ndim == 1:
        return column
    return column.astype(jnp.float32) * np.float32(
        1 / 255
    )  # a division XLA may turn into this, or not
