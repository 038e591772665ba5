"""The nouns of jdl: arrays in frozen dataclasses, and the interfaces that its parts have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jdl.errors import Error as Error
from jdl.keys import stream

Array = jax.Array
Key = jax.Array  # a typed key, as `jax.random.key(seed)` makes it
Batch = dict[str, Array]  # columns of equal length: x, y, mask, id, ...
Variables = dict[str, Any]  # Flax's collections: {"params": ..., "batch_stats": ..., ...}
Bounds = Mapping[str, tuple[float, float]]  # the smallest and largest value of each column
BATCH_STATS = "batch_stats"  # Flax's name for BatchNorm's running statistics
CACHE = "cache"  # Flax's name for what a model keeps of each row: a KV cache, an RNN's states


class Metric(Protocol):
    """A mergeable count: `a + b` is the metric of both sets of examples together."""

    def __add__(self, other: Any, /) -> Any: ...

    def value(self) -> Any:
        """A number, or a dict of numbers by name."""


Metrics = dict[str, Metric]


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
    """Text to tokens from 0 to `size` - 1 and back; `end` ends a text, `mask` hides a token."""

    @property
    def size(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def mask(self) -> int | None: ...

    def encode(self, text: str) -> Any:
        """The tokens of a text, (n,) of int32, without an end."""

    def decode(self, tokens: Any) -> str: ...


class Loader:
    """A data loader with random access: batch i of the endless epochs is a function of i.

    A subclass defines four members. `read(start)` yields, for i = start, start + 1, ..., the source
    of batch i (arrays that stay on the device, or numpy rows that were read ahead); `batch(source,
    i)` makes batch i of it, purely, within the compiled step.
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
        return jax.jit(self.batch)(next(self.read(i)), jnp.asarray(i, jnp.int32))

    @property
    def size(self) -> int:
        """Rows in a batch, padding included."""
        return len(next(iter(self.spec.values())))

    @property
    def rows(self) -> int:
        """Examples in an epoch."""
        return len(self) * self.size

    @property
    def bounds(self) -> Bounds:
        """The smallest and largest value of each column of numbers, where they are known."""
        return {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data: here of the batches of the first epoch."""
        raise NotImplementedError

    def shard(self, part: slice) -> Loader:
        """The same batches, for a process that needs only this part of the rows."""
        raise NotImplementedError


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
