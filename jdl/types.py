"""Core types: metrics, the train state, and the interfaces of objectives, learners, loaders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jdl.errors import HAS_GRADS, missing
from jdl.errors import Error as Error
from jdl.keys import stream

Array = jax.Array
Key = jax.Array
"""A typed random key (PRNG key), as returned by `jax.random.key(seed)`."""
Batch = dict[str, Array]
"""A batch of examples: arrays of equal length by column name (x, y, mask, id, ...)."""
Variables = dict[str, Any]
"""Flax's variables by collection: {"params": ..., "batch_stats": ..., ...}."""
Bounds = Mapping[str, tuple[float, float]]
"""The smallest and the largest value of each column, by its name.

Of columns with numbers from 0 to 1 in several axes, also those of the sums over the last axis, by
`sums_of(name)`: probabilities sum to 1.
"""
Precision = Literal["float32", "bfloat16", "float16"]
"""The floating-point type that a model computes in."""
BATCH_STATS = "batch_stats"  # the Flax collection of BatchNorm's running statistics
FP8_SCALES = "_overwrite_with_gradient"
"""Flax's collection of the scales of fp8 products: what differentiation gives for them is not a
gradient, but their next values."""
ANNEALING = "annealing"  # the collection with the number of steps, of `jdl.anneal`
CACHE = "cache"  # the Flax collection of states by row: a KV cache, or an RNN's states


def sums_of(column: str) -> str:
    """The name in `Bounds` of the sums over the last axis of a column."""
    return f"sums of {column}"


def sides_of(column: str) -> str:
    """The name in `Bounds` of the widths and heights of a column of boxes (x0, y0, x1, y1)."""
    return f"sides of {column}"


class Metric(Protocol):
    """A mergeable metric: `a + b` is the metric of both sets of examples together."""

    def __add__(self, other: Any, /) -> Any: ...

    def value(self) -> Any:
        """The metric's number, or a dict of numbers by name."""


Metrics = dict[str, Metric]
"""Metrics by name."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mean:
    """A weighted mean, stored as `total` and `count`, so that means of batches merge exactly.

    Averaging the means of batches would be wrong if they differ in their number of real examples.
    """

    total: Array
    count: Array

    @classmethod
    def of(cls, values: Array, mask: Array | None = None) -> Mean:
        """The mean of the `values` (B, ...) whose `mask`, (B,) or (B, ...), is not zero.

        A float mask is a weight: 0.5 counts as half an example. Masked values may even be NaN.
        Sums and counts are float32, whatever the values are.
        """
        values = jnp.asarray(values).astype(jnp.float32)
        if mask is None:
            return cls(values.sum(), jnp.asarray(values.size, jnp.float32))
        by_row = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
        try:
            weight = jnp.broadcast_to(by_row, values.shape).astype(jnp.float32)
        except ValueError as error:
            raise Error(
                f"Mean.of got values of shape {values.shape} with a mask of shape {mask.shape}: "
                "give one value for each row, (B,) or (B, ...), before any mean over the rows."
            ) from error
        return cls(jnp.where(weight != 0, values * weight, 0).sum(), weight.sum())

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> Array:
        """total / count; NaN if the count is 0."""
        return self.total / self.count


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossOutput:
    """What a loss function returns: the loss as total and count, metrics, and the model state."""

    loss: Mean
    metrics: Metrics
    model_state: Variables  # updated by this batch: BatchNorm statistics, ...


class Objective:
    """A training objective: a model, a task and its loss function. All methods are pure.

    Subclasses define `init` and `loss`. The protocols `Predicts`, `Generates`, `SamplesLatents`,
    `Encodes` and `DecodesTokens` name what else an objective may be able to do; test for them with
    `isinstance(objective, Predicts)`. `stored_columns` names columns that were computed once for
    each row as the dataset has it: they would be wrong for augmented rows.
    """

    stored_columns: tuple[str, ...] = ()

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables, for batches of this shape."""
        raise missing(self, "init")

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The loss and the metrics of a batch, in training or in evaluation."""
        raise missing(self, "loss")

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if data of these shapes and bounds do not fit the model."""


@runtime_checkable
class Predicts(Protocol):
    """An objective that makes predictions."""

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The predictions for the rows of a batch, as columns: label, probability, value, ..."""


@runtime_checkable
class Merges(Protocol):
    """An objective that trains more than its predictions need, or the same in another form."""

    def merge(self, variables: Variables) -> tuple[Objective, Variables]:
        """What predicts the same in the form that is handed over: adapters merged, say."""


@runtime_checkable
class Generates(Protocol):
    """The objective of a generative model: it decodes latents to rows like those of the data."""

    def decode(self, variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        """Rows x (B, ...) from latents z (B, ...), for the batch's labels y if there are any."""


@runtime_checkable
class SamplesLatents(Generates, Protocol):
    """A generative model with a prior, from which new rows are sampled."""

    def sample_latent(self, key: Key, batch: Batch) -> Array:
        """Latents z (B, ...) from the standard normal prior, one for each row of the batch."""


@runtime_checkable
class Encodes(Generates, Protocol):
    """A generative model with an encoder."""

    def encode(self, variables: Variables, batch: Batch) -> Array:
        """The latents z (B, ...) of the batch's own rows."""


@runtime_checkable
class DecodesTokens(Protocol):
    """The objective of an autoregressive model: it generates tokens one by one, with a KV cache."""

    @property
    def max_length(self) -> int | None:
        """The most tokens that the KV cache holds; None if there is no limit."""

    def init_cache(self, variables: Variables, batch: Batch) -> Any:
        """The KV cache before the first token; an encoder-decoder encodes the batch's x here."""

    def next_logits(self, variables: Variables, cache: Any, tokens: Array) -> tuple[Array, Any]:
        """The logits (B, t, vocabulary) after each of the next tokens (B, t), and the new cache."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """The train state: all that training changes, as one pytree of arrays.

    It can be vmapped, compared, donated, sharded and saved as a whole.
    """

    step: Array  # int32: training steps so far
    params: Any
    model_state: Variables  # not trained: BatchNorm statistics, frozen parameters
    opt_state: Any
    key: Key  # never changes: `stream(key, name, step)` gives each use its own key
    extra: dict[str, Any] = field(default_factory=dict)  # by name: "ema", "episodes", ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gradients:
    """The gradients of the summed loss over a batch or a part of one, and its `LossOutput`.

    They are not yet divided by the count, so that those of a batch's parts add up to the batch's.
    """

    grads: Any
    output: LossOutput


class Learner:
    """A training algorithm: pure functions from one train state to the next.

    A learner whose loss is a sum over the batch defines `grads` and `apply_gradients`; `step` calls
    both. Micro-batches, pmap and elastic runs add up the gradients of the parts of a batch. Any
    other learner (reinforcement learning, populations) defines `step` and sets `has_grads = False`.
    """

    objective: Objective
    has_grads: bool = True

    def init(self, key: Key, batch: Batch) -> State:
        """The state before the first step, for batches of this shape."""
        raise missing(self, "init")

    def grads(
        self, state: State, batch: Batch, key: Key, loss_scale: Array | float = 1.0
    ) -> Gradients:
        """The gradients of the summed loss times `loss_scale`, over a batch or a part of one."""
        raise missing(self, "grads", HAS_GRADS)

    def apply_gradients(self, state: State, gradients: Gradients) -> tuple[State, Metrics]:
        """The state after the optimizer's update, and the metrics of the step."""
        raise missing(self, "apply_gradients", HAS_GRADS)

    def step(self, state: State, batch: Any) -> tuple[State, Metrics]:
        """One training step."""
        key = stream(state.key, "loss", state.step)
        return self.apply_gradients(state, self.grads(state, batch, key))

    def eval_variables(self, state: State) -> Variables:
        """The variables to evaluate and predict with: the parameters, or an average of them."""
        return {"params": state.params, **state.model_state}

    def check_steps(self, steps: int) -> None:
        """Raises `Error` where a run of so many steps is too short for it, or its schedules wrong.

        A wrapper checks its own alone, not those of the learner within it.
        """


class Tokenizer(Protocol):
    """A tokenizer: text to tokens from 0 to `vocab_size` - 1, and back."""

    @property
    def vocab_size(self) -> int:
        """The size of the vocabulary."""

    @property
    def eos_id(self) -> int:
        """The end-of-text token."""

    @property
    def mask_id(self) -> int | None:
        """The mask token of a masked language model; None if there is none."""

    def encode(self, text: str) -> Any:
        """The tokens of a text, (n,) of int32, without an end-of-text token."""

    def decode(self, tokens: Any) -> str:
        """The text of the tokens (n,)."""


class Loader:
    """A data loader with random access: batch i, over endless epochs, is a function of i.

    A subclass defines four members: `__len__`, `spec`, `read` and `batch`. `read(start)` yields,
    for i = start, start + 1, ..., the raw data of batch i: arrays that stay on the device, or numpy
    rows that were prefetched. `batch(raw, i)`, a pure function, turns it into batch i within the
    compiled step. All batches have the same shape; the column `mask` (B,) is false for padding.
    """

    def __len__(self) -> int:
        """Batches in an epoch."""
        raise missing(self, "__len__")

    @property
    def spec(self) -> Batch:
        """The shapes and types of a batch, as `jax.ShapeDtypeStruct`."""
        raise missing(self, "spec")

    def read(self, start: int = 0) -> Iterator[Any]:
        """An endless iterator over the raw data of the batches from `start` on.

        Batches whose raw data are the very same arrays can be trained in one call of the device
        (`Options.steps_per_call`), so an array must not be filled again.
        """
        raise missing(self, "read")

    def batch(self, raw: Any, i: Array) -> Batch:
        """Batch i from its raw data: a pure function."""
        raise missing(self, "batch")

    def __getitem__(self, i: int) -> Batch:
        return self._jit_batch(next(self.read(i)), jnp.asarray(i, jnp.int32))

    @property
    def batch_size(self) -> int:
        """Rows in a batch, padding included."""
        return len(next(iter(self.spec.values())))

    @property
    def num_examples(self) -> int:
        """Examples in an epoch; by default all rows of its batches."""
        return len(self) * self.batch_size

    @property
    def bounds(self) -> Bounds:
        """The smallest and the largest value of each numeric column, if known."""
        return {}

    @property
    def augmented(self) -> bool:
        """Whether rows are augmented: changed by more than the evaluation's rows are."""
        return False

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data; by default of the batches of the first epoch."""
        digest = hashlib.sha256()
        for i, raw in zip(range(len(self)), self.read(), strict=False):
            for name, column in sorted(self._jit_batch(raw, jnp.asarray(i, jnp.int32)).items()):
                digest.update(f"{name} {column.dtype} {column.shape}\n".encode())
                digest.update(np.asarray(column).tobytes())
        return digest.hexdigest()

    def shard(self, part: slice) -> Loader:
        """The same loader for one of several processes: `read` yields only `part` of the rows.

        By default NumPy arrays are read whole and sliced; arrays on a device stay whole.
        """
        return LoaderShard(self, part)

    @cached_property
    def _jit_batch(self) -> Callable[[Any, Array], Batch]:
        return jax.jit(self.batch)


@dataclass(frozen=True, eq=False)
class LoaderShard(Loader):
    """A loader that reads only a part of each batch's rows: the default of `Loader.shard`."""

    loader: Loader
    part: slice

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def spec(self) -> Batch:
        return self.loader.spec

    def read(self, start: int = 0) -> Iterator[Any]:
        for raw in self.loader.read(start):
            yield jax.tree.map(self._rows, raw)

    def batch(self, raw: Any, i: Array) -> Batch:
        return self.loader.batch(raw, i)

    @property
    def num_examples(self) -> int:
        return self.loader.num_examples

    @property
    def bounds(self) -> Bounds:
        return self.loader.bounds

    @property
    def fingerprint(self) -> str:
        return self.loader.fingerprint

    def _rows(self, leaf: Any) -> Any:
        return leaf[self.part] if isinstance(leaf, np.ndarray) and leaf.ndim else leaf
