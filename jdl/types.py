"""The nouns of jdl: arrays in frozen dataclasses, and pure functions in pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jdl.errors import Error as Error

Array = jax.Array
Key = jax.Array  # a typed key, as `jax.random.key(seed)` makes it
Batch = dict[str, Array]  # columns of equal length: x, y, mask, id, ...
Variables = dict[str, Any]  # Flax's collections: {"params": ..., "batch_stats": ..., ...}
STATISTICS = "batch_stats"  # Flax's name for what BatchNorm carries
MEMORY = "cache"  # Flax's name for what a model remembers of each row


class Metric(Protocol):
    """A count that merges: `a + b` is the metric of both sets of examples together."""

    def __add__(self, other: Any, /) -> Any: ...

    def value(self) -> Any:
        """A number, or a dict of numbers by name."""


Metrics = dict[str, Metric]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mean:
    """A mean that has not been divided yet, so that it can be merged: `total` over `count` examples.

    A mean of means is wrong as soon as two batches differ in their number of real examples.
    """

    total: Array
    count: Array

    @classmethod
    def of(cls, values: Array, mask: Array | None = None) -> Mean:
        """The mean of `values` (B, ...) over the rows, or the elements, where `mask` (B,) or (B, ...) is not zero.

        A float mask weighs: 0.5 counts half an example. Masked values may be anything, even NaN.
        """
        if mask is None:
            return cls(values.sum(), jnp.asarray(values.size, values.dtype))
        mask = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values.shape)
        weight = mask.astype(values.dtype)
        return cls(jnp.where(weight != 0, values * weight, 0).sum(), weight.sum())

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> Array:
        return self.total / self.count


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Out:
    """What an objective says of a batch: the loss, not yet divided; metrics; the carried variables afterwards."""

    loss: Mean
    metrics: Metrics
    carry: Variables


@dataclass(frozen=True)
class Objective:
    """A pair of pure functions, `init` and `loss`: what is to be made small.

    `init(key, batch) -> variables`; `loss(variables, batch, key, train) -> Out`. The others are there where they make
    sense: `predict(variables, batch)` gives columns for the rows of x, `check(spec, bounds)` raises `Error` where
    data do not suit the model, from a batch's shapes and each column's (least, greatest) alone, `decoder` writes
    sequences, and `maker` makes rows.
    """

    init: Callable[[Key, Batch], Variables]
    loss: Callable[[Variables, Batch, Key, bool], Out]
    predict: Callable[[Variables, Batch], Batch] | None = None
    check: Callable[[Batch, Bounds], None] | None = None
    decoder: Decoder | None = None
    maker: Maker | None = None


@dataclass(frozen=True)
class Maker:
    """Functions that make rows like those of the data, for `jdl sample` and the pictures of a run.

    `make(variables, z, batch, key) -> x (B, ...)` makes a row of each row of `z` (B, ...), for the other columns of the
    batch, like y, where it reads them. `noise(key, batch) -> z` draws what new rows are made from, one for each row of
    the batch, all numbers normal and independent; `encode(variables, batch) -> z` finds what the batch's own are made
    from. Either may be missing.
    """

    make: Callable[[Variables, Array, Batch, Key], Array]
    noise: Callable[[Key, Batch], Array] | None = None
    encode: Callable[[Variables, Batch], Array] | None = None


@dataclass(frozen=True)
class Decoder:
    """A pair of pure functions that write a sequence token by token, for `jdl.sampling`.

    `start(variables, batch) -> cache` reads what the sequence is written from, if anything; `next(variables, cache,
    tokens) -> (logits, cache)` takes the next tokens (B, t) and says what may follow each, (B, t, vocabulary).
    `longest` is how many tokens it can take in all, where there is a limit.
    """

    start: Callable[[Variables, Batch], Any]
    next: Callable[[Variables, Any, Array], tuple[Array, Any]]
    longest: int | None = None


Bounds = Mapping[str, tuple[float, float]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """All that training changes, arrays only: it can be vmapped, compared, donated, sharded and saved as it is."""

    step: Array  # int32: how many updates lie behind
    params: Any
    carry: Variables  # variables that are not trained: BatchNorm statistics, frozen parameters, ...
    opt: Any
    key: Key  # never changes: `stream(key, name, step)` gives each use its own key


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """What a step adds up over the rows of a batch: the gradient of the loss's total, and what the objective says."""

    grads: Any
    out: Out


@dataclass(frozen=True)
class Halves:
    """A step in two: `sums(state, batch, key) -> Sums` of a part of a batch; `update(state, sums)` by those of all.

    A fourth argument of `sums` scales the loss that is differentiated, and so the gradients.
    """

    sums: Callable[..., Sums]
    update: Callable[[State, Sums], tuple[State, Metrics]]


@dataclass(frozen=True)
class Learner:
    """A pair of pure functions, `init` and `step`, and how to look at what it learns.

    `init(key, batch) -> State`; `step(state, batch) -> (State, metrics)`. To evaluate or predict is to put
    `view(state)`, the variables to be looked at, into `objective`. A step that only sums over its batch has `halves`,
    for those who sum in another way.
    """

    init: Callable[[Key, Batch], State]
    step: Callable[[State, Any], tuple[State, Metrics]]
    objective: Objective
    view: Callable[[State], Variables]
    halves: Halves | None = None


class Tokenizer(Protocol):
    """Text to whole numbers from 0 to `size` - 1 and back; `end` ends a text, `mask` stands for a hidden token."""

    @property
    def size(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def mask(self) -> int | None: ...

    def encode(self, text: str) -> Any:
        """The tokens of a text, (n,) of int32, without an end."""

    def decode(self, tokens: Any) -> str: ...


class Data(Protocol):
    """A random-access sequence of batches, whose order comes from (seed, epoch) alone.

    `data[i]` is batch i of the endless sequence of epochs. For speed it is cut in two: `read(start)` yields, for
    i = start, start + 1, ..., what batch i is made of (arrays kept on the device, or rows read ahead), and
    `batch(source, i)` makes the batch of it, purely, inside the compiled step. Rows read ahead are numpy arrays, and
    `only(part).read()` yields that part of them, for a process that has to do with no other.
    """

    def __len__(self) -> int:
        """Batches in an epoch."""

    def __getitem__(self, i: int) -> Batch: ...

    def read(self, start: int = 0) -> Iterator[Any]: ...

    def only(self, part: slice) -> Data: ...

    def batch(self, source: Any, i: Array) -> Batch: ...

    @property
    def spec(self) -> Batch:
        """The shapes and types of a batch, as `jax.ShapeDtypeStruct`."""

    @property
    def rows(self) -> int:
        """Examples in an epoch."""

    @property
    def size(self) -> int:
        """Rows in a batch, padding included."""

    @property
    def bounds(self) -> Bounds:
        """The least and greatest value of each column of numbers, where they are known."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the examples."""


@dataclass(frozen=True)
class Run:
    """An experiment, ready to be trained: its config, what learns, from what, and what it is judged by.

    During training `valid` is evaluated, or `test` where there is no `valid`; `test` is evaluated at the end. The
    best checkpoint is the one with the best `best`, a metric's name with "max " or "min " before it. `score` gives
    more numbers of the variables at the end, whatever they cost: BLEU of whole translations, for example.
    """

    config: Any
    learner: Learner
    train: Data
    valid: Data | None = None
    test: Data | None = None
    best: str = "min loss"
    labels: tuple[str, ...] = ()  # names of the classes, for figures and predictions
    tokenizer: Tokenizer | None = None  # of a model of text: for samples, and to predict from text
    score: Callable[[Variables], dict[str, float]] | None = None
