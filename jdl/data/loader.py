"""The data loader of a dataset: shuffled, padded, augmented batches, with random access."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import count, repeat
from typing import Any, Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.augment import Augmentation, BatchTransform, Example, Transform
from jdl.data.dataflow import dependences
from jdl.data.order import Sampling, epoch_order
from jdl.image_bytes import is_image, rescale
from jdl.keys import stream
from jdl.types import Array, Batch, Bounds, Loader, sums_of

PREFETCH = 8  # batches that are prefetched from a streaming dataset
THREADS = 4  # threads that prefetch them


class RowReader(Protocol):
    """The interface that a `DatasetLoader` reads: rows with named columns, as a `Dataset` has."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of these rows, and `id`."""

    @property
    def fits_on_device(self) -> bool:
        """Whether the columns are kept on the device; else they are streamed from the host."""

    @property
    def on_device(self) -> dict[str, Array]:
        """All columns, on the device."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    def bounds(self) -> Bounds:
        """The smallest and largest value of each column, where known."""

    @property
    def transforms(self) -> tuple[Augmentation, ...]:
        """The transforms of all its batches, also in evaluation."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the rows."""


T = TypeVar("T", bound=RowReader)


@dataclass(frozen=True, eq=False)
class DatasetLoader(Loader, Generic[T]):
    """The data loader of a `Dataset`: epochs of batches of one size, the last padded and masked.

    A batch has the dataset's columns and besides `mask` (B,), false in padding, and `id` (B,), the
    example's row in its source; with `start_column` also `start` (B,). Images of bytes become
    float32 from 0 to 1. The key of an example's data augmentation is derived from (seed, epoch,
    id), so it does not depend on the batch size or on the process that reads the example. Where
    rows are drawn by weight and may come twice, it also depends on the place in the epoch.
    """

    dataset: T
    size: int  # of a batch; a field cannot have the name of the property `batch_size`
    seed: int | None = None  # of the shuffling; None: the dataset's own order, in every epoch
    transforms: tuple[Augmentation, ...] = ()
    part: slice | None = None  # the rows of each batch that `read` prefetches; None: all
    start_column: bool = False  # adds `start` (B,), true in the first batch of an epoch
    sampling: Sampling | None = None  # of training rows by weight; None: each once an epoch

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def __getitem__(self, i: int) -> Batch:
        on_device = self.dataset.fits_on_device
        raw = self._device_data(i // len(self)) if on_device else self._host_data(i)
        return self._jit_batch(raw, jnp.asarray(i, jnp.int32))

    def shard(self, part: slice) -> DatasetLoader[T]:
        """The same loader for one process: `read` prefetches only these rows of each batch."""
        return replace(self, part=part)

    def read(self, start: int = 0) -> Iterator[Any]:
        """The raw data of the batches from `start` on: arrays on the device, or prefetched rows."""
        if self.dataset.fits_on_device:
            return self._read_device(start)
        import grain  # slow to import, and rarely needed

        rows = grain.MapDataset.range(start, np.iinfo(np.int32).max).map(
            lambda i: self._host_data(i, self.part or slice(None))
        )
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=PREFETCH)
        return iter(rows.to_iter_dataset(options))

    def _read_device(self, start: int) -> Iterator[Any]:
        first, skipped = divmod(start, len(self))
        raw, shuffled = self._device_data(first), self.seed is not None or self.sampling
        yield from repeat(raw, len(self) - skipped)
        for epoch in count(first + 1):
            raw = self._device_data(epoch) if shuffled else raw
            yield from repeat(raw, len(self))

    def batch(self, raw: Any, i: Array) -> Batch:
        """Batch i from its raw data: gathers, masks, rescales and augments; pure, to be jitted."""
        place = i % len(self)
        mask = jnp.arange(self.batch_size) + place * self.batch_size < self.num_examples
        columns = dict(raw["columns"])
        if "order" in raw:
            rows = jax.lax.dynamic_slice_in_dim(
                raw["order"], place * self.batch_size, self.batch_size
            )
            columns = {
                name: column.at[rows].get(mode="promise_in_bounds")
                for name, column in columns.items()
            }
        columns = {name: rescale(name, column) for name, column in columns.items()}
        if self.transforms:
            epoch = stream(raw["key"], "augment", i // len(self))
            keys = jax.vmap(jax.random.fold_in, (None, 0))(epoch, columns["id"])
            if self.sampling:  # the copies of a row in an epoch are augmented differently
                places = place * self.batch_size + jnp.arange(self.batch_size)
                keys = jax.vmap(jax.random.fold_in)(keys, places)
            columns = self.augment(keys, columns, mask)
        start = {"start": jnp.full_like(mask, place == 0)} if self.start_column else {}
        return {**columns, **start, "mask": mask}

    def augment(self, keys: Array, columns: Batch, mask: Array) -> Batch:
        """The columns (B, ...) after the transforms, which draw by the keys (B,) of the rows."""
        for n, transform in enumerate(self.transforms):
            row_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, n)
            if isinstance(transform, BatchTransform):
                columns = dict(transform.change(row_keys, {**columns, "mask": mask}))
                columns.pop("mask", None)
            else:
                columns = jax.vmap(transform)(row_keys, columns)
        return columns

    @cached_property
    def spec(self) -> Batch:
        """The shapes and types of a batch, without making one."""
        raw = {
            "columns": self.dataset.take(np.zeros(self.batch_size, np.int32)),
            "key": jax.eval_shape(jax.random.key, 0),
        }
        return jax.eval_shape(self.batch, raw, jax.ShapeDtypeStruct((), jnp.int32))

    @property
    def batch_size(self) -> int:
        """Rows in a batch, padding included."""
        return self.size

    @property
    def num_examples(self) -> int:
        """Examples in an epoch."""
        return len(self.dataset)

    @property
    def augmented(self) -> bool:
        """Whether there are more transforms than the dataset's own."""
        return len(self.transforms) > len(self.dataset.transforms)

    @cached_property
    def bounds(self) -> Bounds:
        """The smallest and largest value of each column after the transforms, where known.

        For columns that no transform changes, they are the dataset's. For integers that transforms
        compute without their key, such as new labels, they are computed over one epoch, if the
        dataset is on the device. A transform of the whole batch says what they are after it. For
        all other columns they are unknown.
        """
        if not self.transforms:
            return self._raw_bounds
        *rest, last = self.transforms
        if isinstance(last, BatchTransform):
            return last.bounds(replace(self, transforms=tuple(rest)).bounds)
        examplewise: list[Transform] = []  # the transforms of examples at the end
        for transform in self.transforms:
            if isinstance(transform, BatchTransform):
                examplewise.clear()
            else:
                examplewise.append(transform)
        before = replace(self, transforms=self.transforms[: -len(examplewise)])
        copies, computed = self._outputs(before, examplewise)
        copies |= {sums_of(name): sums_of(column) for name, column in copies.items()}
        bounds = {
            name: before.bounds[column]
            for name, column in copies.items()
            if column in before.bounds
        }
        return {**bounds, **self._extremes(computed)} if computed else bounds

    @property
    def _raw_bounds(self) -> Bounds:
        row = self.dataset.take(np.zeros(1, np.int32))
        images = {name for name, column in row.items() if is_image(name, column)}
        return {
            name: (low / 255, high / 255) if name in images else (low, high)
            for name, (low, high) in self.dataset.bounds.items()
        }

    def _outputs(
        self, before: DatasetLoader[T], transforms: Sequence[Transform]
    ) -> tuple[dict[str, str], list[str]]:
        """The columns after transforms of examples whose bounds can be known: (copies, computed).

        `copies` maps each unchanged column to its name before the transforms; `computed` are the
        integer columns that do not depend on a random key.
        """

        def transform(key: Array, example: Example) -> Example:
            for n, change in enumerate(transforms):
                example = change(jax.random.fold_in(key, n), example)
            return example

        key = jax.eval_shape(jax.random.key, 0)
        example = {
            name: jax.ShapeDtypeStruct(column.shape[1:], column.dtype)
            for name, column in before.spec.items()
            if name not in ("mask", "start")
        }
        jaxpr, shapes = jax.make_jaxpr(transform, return_shape=True)(key, example)
        inputs = ["", *jax.tree.leaves({name: name for name in example})]  # the key comes first
        outputs = jax.tree.leaves({name: name for name in shapes})
        drawn_before = bool(before.transforms)  # then any column may depend on a key
        copies, computed = {}, []
        for name, output in zip(outputs, dependences(jaxpr.jaxpr), strict=True):
            if output.copy_of is not None:
                copies[name] = inputs[output.copy_of]
            elif not drawn_before and 0 not in output.inputs and _is_whole(shapes[name]):
                computed.append(name)
        return copies, computed

    def _extremes(self, names: Sequence[str]) -> Bounds:
        """The smallest and largest value of these columns in an epoch."""
        if not self.dataset.fits_on_device:
            return {}
        data = replace(self, sampling=None)  # of all rows, each once

        def of_batch(raw: Any, i: Array) -> dict[str, tuple[Array, Array]]:
            batch = data.batch(raw, i)  # padding repeats a row of the dataset
            return {name: (batch[name].min(), batch[name].max()) for name in names}

        @jax.jit
        def of_epoch(raw: Any) -> dict[str, tuple[Array, Array]]:
            return jax.lax.map(partial(of_batch, raw), jnp.arange(len(data)))

        extremes = of_epoch(data._device_data(0))
        return {name: (int(low.min()), int(high.max())) for name, (low, high) in extremes.items()}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the dataset's rows, and of the weights by which they are drawn."""
        if self.sampling is None:
            return self.dataset.fingerprint
        weighted = self.dataset.fingerprint.encode() + self.sampling.weights.tobytes()
        return hashlib.sha256(weighted + self.sampling.strata.tobytes()).hexdigest()

    @cached_property
    def _key(self) -> Array:
        with jax.ensure_compile_time_eval():  # kept, also where it is first used in a trace
            return jax.random.key(self.seed or 0)

    @cached_property
    def _order(self) -> Callable[[int], np.ndarray]:
        return lru_cache(maxsize=2)(
            lambda epoch: epoch_order(
                self.num_examples, self.batch_size, self.seed, epoch, self.sampling
            )
        )

    def _device_data(self, epoch: int) -> Any:
        return {
            "columns": self.dataset.on_device,
            "order": jax.device_put(self._order(epoch)),
            "key": self._key,
        }

    def _host_data(self, i: int, part: slice = slice(None)) -> Any:
        epoch, place = divmod(i, len(self))
        rows = self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size][part]
        return {"columns": self.dataset.take(rows), "key": self._key}


def _is_whole(column: jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(column.dtype, jnp.integer)
