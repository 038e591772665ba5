"""What a row of the tables of models is: a model, its data and its number of parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jdl
from jdl.models.bert import BERT
from jdl.models.captioner import Captioner
from jdl.models.dcgan import Generator
from jdl.models.dit import DiT
from jdl.models.gpt import GPT
from jdl.models.rnn import RNN
from jdl.models.sasrec import SASRec
from jdl.models.t5 import T5
from jdl.models.transformer import TransformerConfig
from jdl.models.two_towers import TwoTowers
from jdl.models.unet import UNet
from jdl.objectives import classify
from jdl.objectives.model_keywords import signature_of
from jdl.types import Batch, Learner, Objective

CORE = (  # the rows of which scripts/test shows every property; those of the others are slow
    *("mlp", "cnn-norm", "lstm", "vit", "gpt", "bert", "gcn", "plain-linen", "plain-nnx"),
    *("pair-stateful", "adapted", "vae", "gan", "clusters"),
)


ROWS, SIZE = 12, 13  # rows of a batch, and tokens of a vocabulary
MAX_LENGTH = 16  # of the transformers, in tokens
WITH_DECODER = (Captioner, T5)  # models that read y too


@dataclass(frozen=True)
class Row:
    """A model; `shape` is that of a row of numbers x, or (T,) of a sequence of tokens."""

    name: str
    model: Any
    shape: tuple[int, ...]
    parameters: int  # computed by hand
    rate: float = 1e-2
    objective: Callable[[Any], Objective] = classify
    output: tuple[int, ...] = (5,)  # the shape of a row of the model's output
    ragged: bool = False  # whether the rows have a length
    wrap: Callable[[Learner], Learner] = lambda learner: learner  # what the objective needs

    def batch(self) -> Batch:
        """Rows that differ in their first step already."""
        rows = jnp.arange(ROWS, dtype=jnp.int32)
        columns = {"y": rows % 5, "mask": jnp.ones(ROWS, bool)}
        if len(self.shape) > 1:
            columns["x"] = jax.random.normal(jax.random.key(1), (ROWS, *self.shape))
        else:
            tokens = jax.random.randint(jax.random.key(1), (ROWS, *self.shape), 0, SIZE)
            columns["x"] = tokens.at[:, 0].set(rows)
        if self.ragged:
            columns["length"] = self.shape[0] - rows % 3
        if self.objective is not classify:
            labels = SIZE - 1 if isinstance(self.model, WITH_DECODER) else 4
            columns["y"] = 1 + (rows[:, None] + jnp.arange(3)[None]) % labels
        return columns

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """The arguments of the model."""
        if isinstance(self.model, WITH_DECODER):
            return batch["x"], batch["y"]
        return (batch["x"],)

    def apply(self, variables: Any, *inputs: Any, mask: Any = None) -> Any:
        """The model's output in evaluation; a mask is for models that have it as an argument."""
        given = {"mask": mask} if "mask" in signature_of(self.model, "__call__").parameters else {}
        return self.model.apply(variables, *inputs, **given)

    @property
    def is_sequence(self) -> bool:
        """Whether the second axis of each input is time."""
        return isinstance(self.model, RNN | GPT | BERT | T5 | SASRec | TwoTowers)

    @property
    def causal(self) -> bool:
        """Whether the output at a step depends on nothing after it."""
        if isinstance(self.model, RNN):
            return self.model.return_sequences and not self.model.bidirectional
        return isinstance(self.model, (GPT, *WITH_DECODER))


@dataclass(frozen=True)
class Tagged(Row):
    """Sequences with a tag for each step; their objective has parameters beside the model's."""

    def batch(self) -> Batch:
        columns = super().batch()
        steps, tags = self.output
        y = (jnp.arange(ROWS)[:, None] + jnp.arange(steps)[None] ** 2) % tags
        return {**columns, "y": y.astype(jnp.int32).at[1, 2].set(-1)}

    def apply(self, variables: Any, *inputs: Any, mask: Any = None) -> Any:
        params = variables["params"]  # the objective's, or the model's alone
        return super().apply({"params": params.get("model", params)}, *inputs, mask=mask)


@dataclass(frozen=True)
class Spans(Row):
    """Sequences of two token types; the span of one or two steps in the second that answers."""

    def batch(self) -> Batch:
        columns = super().batch()
        rows, steps = jnp.arange(ROWS, dtype=jnp.int32), jnp.arange(self.shape[0])[None]
        token_type = ((steps > 1) & (steps < columns["length"][:, None])).astype(jnp.int32)
        start = 2 + rows % 2
        y = jnp.stack([start, start + (rows % 3 == 0).astype(jnp.int32)], -1)
        return {**columns, "token_type": token_type, "y": y.at[1].set(0)}


@dataclass(frozen=True)
class Nodes(Row):
    """Graphs of six nodes, with edges within each half; of their labels the first one's counts."""

    def batch(self) -> Batch:
        columns, (nodes, _) = super().batch(), self.shape
        edges = jax.random.randint(jax.random.key(2), (ROWS, 10, 2), 0, nodes // 2)
        edges = (edges + nodes // 2 * (jnp.arange(10) % 2)[None, :, None]).at[:, -2:].set(-1)
        y = columns["y"]
        if len(self.output) > 1:
            y = jnp.full((ROWS, nodes), -1).at[:, 0].set(y)
        columns["x"] = columns["x"].at[:, nodes // 2 :, 0].add(3)
        return {**columns, "edges": edges, "y": y, "links": edges[:, :4]}

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        return batch["x"], batch["edges"]


@dataclass(frozen=True)
class Users(Row):
    """Users with up to three items after the start, and the item to be found."""

    def batch(self) -> Batch:
        columns, rows = super().batch(), jnp.arange(ROWS, dtype=jnp.int32)
        length = 1 + rows % 4
        real = (jnp.arange(self.shape[0]) > 0)[None] & (
            jnp.arange(self.shape[0])[None] < length[:, None]
        )
        items = 1 + (columns["x"] + rows[:, None]) % (SIZE - 1)
        x = jnp.where(real, items, 0)
        return {**columns, "user": rows, "x": x, "length": length, "y": 1 + rows}

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        return (batch["x"],) if self.is_sequence else (batch["user"],)


@dataclass(frozen=True)
class Columns(Row):
    """A row of two columns: `inputs` of an adapted model."""

    def batch(self) -> Batch:
        columns = super().batch()
        return {**columns, "more": jax.random.normal(jax.random.key(4), (ROWS, 3))}

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        return self.model.arguments(batch).args


@dataclass(frozen=True)
class Lines(Row):
    """Images of different widths, padded on the right."""

    def batch(self) -> Batch:
        width = self.shape[1] - 3 * (jnp.arange(ROWS, dtype=jnp.int32) % 3)
        return {**super().batch(), "width": width}


@dataclass(frozen=True)
class Sounds(Row):
    """Waveforms of different lengths, padded on the right."""

    def batch(self) -> Batch:
        length = self.shape[0] - 13 * (jnp.arange(ROWS, dtype=jnp.int32) % 3)
        x = jax.random.normal(jax.random.key(1), (ROWS, *self.shape))
        return {**super().batch(), "x": x, "length": length}


@dataclass(frozen=True)
class Speech(Sounds):
    """Such waveforms, and what is said there: the tokens, and the token of each frame."""

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        frames = jnp.arange(self.output[0], dtype=jnp.int32)
        return batch["y"], jnp.broadcast_to(frames[None] // 8, (ROWS, len(frames)))


@dataclass(frozen=True)
class Bases(Row):
    """DNA of different lengths, padded on the right."""

    def batch(self) -> Batch:
        columns = super().batch()
        return {**columns, "x": jax.random.randint(jax.random.key(1), columns["x"].shape, 1, 5)}


@dataclass(frozen=True)
class Forecasts(Row):
    """Windows of a series, the four values that follow, and a naive forecast of them."""

    def batch(self) -> Batch:
        steps = jnp.arange(ROWS)[:, None] + jnp.arange(self.shape[0] + 4)[None]
        series = jnp.sin(steps.astype(jnp.float32) / 2)
        x = jnp.stack([series * k for k in range(1, self.shape[1] + 1)], -1)
        x, y = x[:, : self.shape[0]], series[:, self.shape[0] :]
        return {"x": x, "y": y, "naive": x[:, -4:, 0], "mask": jnp.ones(ROWS, bool)}


@dataclass(frozen=True)
class Images(Row):
    """Images of black beside white; the border moves from row to row."""

    def batch(self) -> Batch:
        rows = jnp.arange(ROWS, dtype=jnp.int32)
        _, width, _ = self.shape
        white = (jnp.arange(width)[None, :] < (rows % width)[:, None]).astype(jnp.float32)
        x = jnp.broadcast_to(white[:, None, :, None], (ROWS, *self.shape))
        return {"x": x, "y": rows % 5, "mask": jnp.ones(ROWS, bool)}

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        if isinstance(self.model, Generator):
            return (jax.random.normal(jax.random.key(3), (ROWS, 5)),)
        times = jnp.arange(ROWS, dtype=jnp.float32) / ROWS
        if isinstance(self.model, UNet):
            return batch["x"], times, batch["y"]
        return (batch["x"], times) if isinstance(self.model, DiT) else (batch["x"],)


@dataclass(frozen=True)
class Patches(Images):
    """Such images, and the places of two patches that the model sees."""

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        rows = jnp.arange(ROWS, dtype=jnp.int32)
        return batch["x"], jnp.stack([rows % 4, (rows + 1) % 4], -1)


@dataclass(frozen=True)
class Boxes(Row):
    """Images with up to two bright squares, as dark as their label, and their boxes."""

    def batch(self) -> Batch:
        rows, (height, width, _) = jnp.arange(ROWS, dtype=jnp.int32), self.shape
        corner = jnp.stack([jnp.stack([rows % 5, rows % 3], -1), jnp.full((ROWS, 2), 9)], 1)
        boxes = jnp.concatenate([corner, corner + 6], -1)
        y = jnp.stack([jnp.where(rows < 8, rows % 3, -1), jnp.where(rows < 4, rows % 2, -1)], -1)
        h, w = jnp.arange(height)[None, None, :, None], jnp.arange(width)[None, None, None]
        x0, y0, x1, y1 = (boxes[..., n, None, None] for n in range(4))
        inside = (w >= x0) & (w < x1) & (h >= y0) & (h < y1)
        x = jnp.where(inside, (y + 1)[..., None, None], 0).max(1).astype(jnp.float32) / 3
        texture = jax.random.uniform(jax.random.key(2), x.shape) / 2  # as of `Pixels`
        columns = {"x": (x / 2 + texture)[..., None], "boxes": boxes.astype(jnp.float32), "y": y}
        return {**columns, "mask": jnp.ones(ROWS, bool)}


@dataclass(frozen=True)
class Keypoints(Boxes):
    """Such images, and two corners of their first square, of which some are not known."""

    def batch(self) -> Batch:
        batch = super().batch()
        points = batch["boxes"][:, 0].reshape(ROWS, 2, 2)
        known = batch["y"] > -1
        keypoints = jnp.concatenate([points, jnp.full((ROWS, 2, 1), 2.0)], -1)
        keypoints = jnp.where(known[..., None], keypoints, 0)
        return {"x": batch["x"], "keypoints": keypoints, "mask": batch["mask"]}


@dataclass(frozen=True)
class Pixels(Images):
    """Such images with a class for each pixel: black, white, white further down; one unknown.

    They have a texture: the normalization of images of one color would amplify rounding.
    """

    def batch(self) -> Batch:
        batch = super().batch()
        white = (batch["x"][..., 0] > 0).astype(jnp.int32)
        below = (jnp.arange(self.shape[0]) >= self.shape[0] // 2).astype(jnp.int32)
        y = (white * (1 + below[None, :, None])).at[1, 2, 3].set(-1)
        texture = jax.random.uniform(jax.random.key(2), batch["x"].shape) / 2
        return {**batch, "x": batch["x"] / 2 + texture, "y": y}

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        return (batch["x"],)


@dataclass(frozen=True)
class Captioned(Images):
    """Images with a sentence of two to four tokens each."""

    def batch(self) -> Batch:
        rows = jnp.arange(ROWS, dtype=jnp.int32)
        tokens = jax.random.randint(jax.random.key(5), (ROWS, 4), 0, SIZE).at[:, 0].set(rows)
        return {**super().batch(), "y": tokens, "y_length": 4 - rows % 3}


@dataclass(frozen=True)
class Unlabelled(Images):
    """Such images, and beside each of them three without labels, of which the last is padding."""

    def batch(self) -> Batch:
        labelled = super().batch()
        data = jdl.data.arrays(x=labelled["x"], y=labelled["y"])
        rest = jdl.data.arrays(x=jnp.tile(labelled["x"], (3, 1, 1, 1))[:-1])
        loader = jdl.data.zip_loaders(data.batches(ROWS), unlabelled=rest.batches(3 * ROWS))
        return {name: column for name, column in loader[0].items() if name != "id"}


class Plain(nn.Module):
    """A plain Linen module. No BatchNorm and Dropout of Flax's own: they read padding rows too."""

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Dense(16)(x.reshape(x.shape[0], -1)))
        return nn.Dense(5)(nn.relu(x))


class PlainNNX(nnx.Module):
    """The same in NNX."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(16, 16, rngs=rngs), nnx.Linear(16, 5, rngs=rngs)])
        self.norm = nnx.LayerNorm(16, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.layers[0](x.reshape(x.shape[0], -1)))
        return self.layers[1](nnx.relu(x))


def init_pair(key, x):
    """Weights in a list and a tuple: parameters are any pytree."""
    one, two = jax.random.split(key)
    he = jax.nn.initializers.he_normal()
    return [(he(one, (16, 16)), jnp.zeros((1, 16))), (he(two, (16, 5)), jnp.zeros((1, 5)))]


def apply_pair(params, x):
    """The same, written by hand."""
    (w, b), (v, c) = params
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ w + b) @ v + c


def init_stateful_pair(key, x):
    """Besides, the mean of all rows, which is subtracted."""
    return init_pair(key, x), {"sum": jnp.zeros((1, 16)), "rows": 0.0}


def apply_stateful_pair(params, state, x, train=False, mask=None):
    """The state counts the real rows alone."""
    x = x.reshape(x.shape[0], -1)
    if train:
        real = jnp.ones((x.shape[0], 1)) if mask is None else mask.astype(jnp.float32)[:, None]
        total = state["sum"] + (x.astype(jnp.float32) * real).sum(0, keepdims=True)
        state = {"sum": total, "rows": state["rows"] + real.sum()}
    mean = state["sum"] / jnp.maximum(state["rows"], 1)
    return apply_pair(params, x - mean.astype(x.dtype)), state


class TwoInputs(nn.Module):
    """A module of two columns, whose logits are in a dict."""

    @nn.compact
    def __call__(self, numbers, image):
        x = jnp.concatenate([numbers, image.reshape(image.shape[0], -1)], -1)
        features = nn.relu(nn.Dense(16)(x))
        return {"features": features, "logits": nn.Dense(5)(features)}


ONE = TransformerConfig(width=8, depth=1, heads=2, max_length=MAX_LENGTH)


# Attention (no bias of the keys), feed-forward, two norms.
BLOCK = (8 * 8 * 4 + 3 * 8) + (2 * 8 * 32 + 32 + 8) + 2 * 16

NOISE = jdl.data.gaussian_noise(0.1)  # what the two views of a row differ by

CONDITIONING = 2 * (32 * 32 + 32) + 6 * 32  # embeddings of time and label, for the U-Net
MODULATION = 32 * 16 + 16  # by them, of a residual block
RESIDUAL = 16 + 584 + 16 + 584  # 8 channels to 8
RESIDUAL_SKIP = 32 + 1_160 + 16 + 584 + (16 * 8 + 8)  # 8 and a skip of 8 to 8
UNET = 80 + 3 * RESIDUAL + 2 * RESIDUAL_SKIP + (16 + 64 + 3 * 72) + (9 * 8 * 32 + 32) + 32


def by_tier(rows: Sequence[Row], tier: str = "slow") -> list[Any]:
    """The rows as parameters of a test: those that are not CORE have the tier's mark."""
    mark = getattr(pytest.mark, tier)
    return [pytest.param(row, id=row.name, marks=() if row.name in CORE else mark) for row in rows]
