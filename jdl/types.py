"""The nouns of jdl: arrays in frozen dataclasses, and the interfaces that its parts have."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jdl.errors import Error as Error
from jdl.keys import stream

Array = jax.Array
Key = jax.Array
"""A typed random key, as `jax.random.key(seed)` makes it."""
Batch = dict[str, Array]
"""A batch of examples: columns of equal length by name: x, y, mask, id, ..."""
Variables = dict[str, Any]
"""Flax's variables by collection: {"params": ..., "batch_stats": ..., ...}."""
Bounds = Mapping[str, tuple[float, float]]
"""The smallest and largest value of each column."""
Precision = Literal["float32", "bfloat16", "float16"]
"""The floating-point type that a model computes in."""
BATCH_STATS = "batch_stats"  # Flax's name for BatchNorm's running statistics
CACHE = "cache"  # Flax's name for what a model keeps of each row: a KV cache, an RNN's states


class Metric(Protocol):
    """A mergeable count: `a + b` is the metric of both sets of examples together."""

    def __add__(self, other: Any, /) -> Any: ...

    def value(self) -> Any:
        """A number, or a dict of numbers by name."""


Metrics = dict[str, Metric]
"""Metrics by name."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mean:
    """A mean kept as `total` and `count`, so that the means of several batches merge exactly.

    The mean of the batches' means is wrong as soon as two batches differ in their number of real
    examples.
    """

    total: Array
    count: Array

    @classmethod
    def of(cls, values: Array, mask: Array | None = None) -> Mean:
        """The mean of `values` (B, ...) where `mask`, (B,) or (B, ...), is not zero.

        A float mask weighs: 0.5 counts half an example. Masked values may be anything, even NaN.
        """
        if mask is None:
            return cls(values.sum(), jnp.asarray(values.size, values.dtype))
        mask = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
        weight = jnp.broadcast_to(mask, values.shape).astype(values.dtype)
        return cls(jnp.where(weight != 0, values * weight, 0).sum(), weight.sum())

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> Array:
        """total / count: NaN, where nothing was counted."""
        return self.total / self.count


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossOutput:
    """What a loss function returns: the loss as total and count, metrics, and the model state."""

    loss: Mean
    metrics: Metrics
    model_state: Variables  # BatchNorm statistics and the like after this batch


class Objective:
    """A training objective: a model, a task and its loss function. All methods are pure.

    Subclasses define `init` and `loss`. What an objective can do besides is said by the protocols
    `Predicts`, `Generates`, `SamplesLatents`, `Encodes` and `Decodes`: `isinstance(objective,
    Predicts)`.
    """

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables, for batches of this shape."""
        raise NotImplementedError

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The loss and the metrics of a batch, in training or in evaluation."""
        raise NotImplementedError

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` where data of these shapes and bounds do not suit the model."""


@runtime_checkable
class Predicts(Protocol):
    """An objective that predicts."""

    def predict(self, variables: Variables, batch: Batch) -> Batch:
        """The predictions for the rows of a batch, as columns: label, probability, value, ..."""


@runtime_checkable
class Generates(Protocol):
    """A generative model's objective: it makes rows like those of the data from latents."""

    def decode(self, variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
        """Rows x (B, ...) from latents z (B, ...), of the batch's labels y if it has any."""


@runtime_checkable
class SamplesLatents(Generates, Protocol):
    """A generative model with a prior, from which new rows are sampled."""

    def sample_latent(self, key: Key, batch: Batch) -> Array:
        """Latents z (B, ...) of standard normal numbers, one for each row of the batch."""


@runtime_checkable
class Encodes(Generates, Protocol):
    """A generative model with an encoder."""

    def encode(self, variables: Variables, batch: Batch) -> Array:
        """The latents z (B, ...) of the batch's own rows."""


@runtime_checkable
class Decodes(Protocol):
    """A language model's objective: it generates token by token, with a KV cache."""

    @property
    def max_length(self) -> int | None:
        """The most tokens that the cache holds, where there is a limit."""

    def init_cache(self, variables: Variables, batch: Batch) -> Any:
        """The cache before the first token; an encoder reads its input from the batch here."""

    def next_logits(self, variables: Variables, cache: Any, tokens: Array) -> tuple[Array, Any]:
        """The logits (B, t, vocabulary) after each of the next tokens (B, t), and the new cache."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """The train state: all that training changes, arrays only.

    So it can be vmapped, compared, donated, sharded and saved as it is.
    """

    step: Array  # int32: updates so far
    params: Any
    model_state: (
        Variables  # variables that are not trained: BatchNorm statistics, frozen parameters
    )
    opt_state: Any
    key: Key  # never changes: `stream(key, name, step)` gives each use its own key
    extra: dict[str, Any] = field(default_factory=dict)  # by wrapper: "ema", "loss_scale", ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gradients:
    """The gradients of the loss's total over a batch or a part of one, and the loss's output.

    Not divided by the count yet: the gradients of the parts of a batch add up to that of the whole.
    """

    grads: Any
    output: LossOutput


class Learner:
    """A training algorithm: pure functions from one train state to the next.

    One that takes a gradient of a sum over the batch defines `grads` and `apply_gradients`, of
    which `step` is made; micro-batches, pmap and elastic runs add up the gradients of parts of a
    batch. Any other (reinforcement learning, populations) defines `step` and sets `has_grads =
    False`.
    """

    objective: Objective
    has_grads: bool = True

    def init(self, key: Key, batch: Batch) -> State:
        """The state before the first step, for batches of this shape."""
        raise NotImplementedError

    def grads(
        self, state: State, batch: Batch, key: Key, loss_scale: Array | float = 1.0
    ) -> Gradients:
        """The gradients of the loss's total, times `loss_scale`, over a batch or a part of one."""
        raise NotImplementedError

    def apply_gradients(self, state: State, gradients: Gradients) -> tuple[State, Metrics]:
        """The state after the optimizer's update, and the metrics of the step."""
        raise NotImplementedError

    def step(self, state: State, batch: Any) -> tuple[State, Metrics]:
        """One training step."""
        key = stream(state.key, "loss", state.step)
        return self.apply_gradients(state, self.grads(state, batch, key))

    def eval_variables(self, state: State) -> Variables:
        """The variables to evaluate and predict with: the parameters, or an average of them."""
        return {"params": state.params, **state.model_state}


class Tokenizer(Protocol):
    """A tokenizer: text to tokens from 0 to `size` - 1, and back."""

    @property
    def size(self) -> int:
        """The size of the vocabulary."""

    @property
    def end(self) -> int:
        """The token that ends a text."""

    @property
    def mask(self) -> int | None:
        """The token in place of a hidden one (masked language model), if there is one."""

    def encode(self, text: str) -> Any:
        """The tokens of a text, (n,) of int32, without an end."""

    def decode(self, tokens: Any) -> str:
        """The text of tokens (n,)."""


class Loader:
    """A data loader with random access: batch i of the endless epochs is a function of i.

    A subclass defines four members: `__len__`, `spec`, `read` and `batch`. `read(start)` yields,
    for i = start, start + 1, ..., the source of batch i: arrays that stay on the device, or numpy
    rows that were prefetched. `batch(source, i)` makes batch i of it, purely, within the compiled
    step. All batches have one shape; where rows are padding, the column `mask` (B,) is false.
    """

    def __len__(self) -> int:
        """Batches in an epoch."""
        raise NotImplementedError

    @property
    def spec(self) -> Batch:
        """The shapes and types of a batch, as `jax.ShapeDtypeStruct`."""
        raise NotImplementedError

    def read(self, start: int = 0) -> Iterator[Any]:
        """The sources of the batches from `start` on, without an end."""
        raise NotImplementedError

    def batch(self, source: Any, i: Array) -> Batch:
        """Batch i, from its source; pure."""
        raise NotImplementedError

    def __getitem__(self, i: int) -> Batch:
        return self._jit_batch(next(self.read(i)), jnp.asarray(i, jnp.int32))

    @property
    def size(self) -> int:
        """Rows in a batch, padding included."""
        return len(next(iter(self.spec.values())))

    @property
    def rows(self) -> int:
        """Examples in an epoch; here all rows of its batches."""
        return len(self) * self.size

    @property
    def bounds(self) -> Bounds:
        """The smallest and largest value of each column of numbers, where they are known."""
        return {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data; here of the batches of the first epoch."""
        digest = hashlib.sha256()
        for i, source in zip(range(len(self)), self.read(), strict=False):
            for name, column in sorted(self._jit_batch(source, jnp.asarray(i, jnp.int32)).items()):
                digest.update(f"{name} {column.dtype} {column.shape}\n".encode())
                digest.update(np.asarray(column).tobytes())
        return digest.hexdigest()

    def shard(self, part: slice) -> Loader:
        """The same loader for a process that needs only these rows of a batch: `read` yields them.

        Here numpy arrays are read whole and cut; arrays that lie on a device stay whole.
        """
        return LoaderShard(self, part)

    @cached_property
    def _jit_batch(self) -> Callable[[Any, Array], Batch]:
        return jax.jit(self.batch)


@dataclass(frozen=True, eq=False)
class LoaderShard(Loader):
    """A loader of which a process reads a part of the rows: the default of `Loader.shard`."""

    loader: Loader
    part: slice

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def spec(self) -> Batch:
        return self.loader.spec

    def read(self, start: int = 0) -> Iterator[Any]:
        for source in self.loader.read(start):
            yield jax.tree.map(self._rows, source)

    def batch(self, source: Any, i: Array) -> Batch:
        return self.loader.batch(source, i)

    @property
    def rows(self) -> int:
        return self.loader.rows

    @property
    def bounds(self) -> Bounds:
        return self.loader.bounds

    @property
    def fingerprint(self) -> str:
        return self.loader.fingerprint

    def _rows(self, leaf: Any) -> Any:
        return leaf[self.part] if isinstance(leaf, np.ndarray) and leaf.ndim else leaf


Hook = tuple[int, Callable[[int, State, Metrics], None]]
"""A hook (callback) of the training loop: (every, function).

After every so many steps `function(step, state, metrics)` is called, to log, draw or collect. It
reads, and changes nothing: a run is the same to the bit with and without it. The metrics are those
of that step (`metrics["loss"].value()`). Arrays of the state are deleted by the next step: what is
kept is copied, by `numpy.asarray`, or `jdl.parallel.to_host` where processes share an array. The
hook is called after the evaluation and before the checkpoint of its step; a run that was killed
calls it again for the steps since its newest checkpoint. An error that it raises ends the run. Of
several processes, all call it.
"""


@dataclass(frozen=True)
class Run:
    """An experiment, ready to be trained: its config, learner and data, and how it is evaluated.

    `valid` is evaluated during training, or `test` where there is no `valid`; `test` is evaluated
    at the end. The best checkpoint is the one with the best `best`: a metric's name after "max" or
    "min". `score` gives more numbers of the final variables, whatever they cost: BLEU of a whole
    test set.
    """

    config: Any
    learner: Learner
    train: Loader
    valid: Loader | None = None
    test: Loader | None = None
    best: str = "min loss"
    labels: tuple[str, ...] = ()  # class names, for figures and predictions
    tokenizer: Tokenizer | None = None  # of a language model: for samples, and to predict from text
    score: Callable[[Variables], dict[str, float]] | None = None
    hooks: Sequence[Hook] = ()  # run after every so many steps
