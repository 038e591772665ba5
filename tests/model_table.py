"""One small model of every family, with data that it can memorize and its number of parameters.

TABLE has supervised models, for every property; UNSUPERVISED has generative models, autoencoders
and others without labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jdl
from jdl.layers import ELMAN, GRU, LSTM, LayerNorm, LogMel
from jdl.models.alexnet import AlexNet
from jdl.models.autoencoder import VAE, Autoencoder
from jdl.models.bert import BERT
from jdl.models.captioner import Captioner
from jdl.models.clip import CLIP, TextTower
from jdl.models.cnn import CNN
from jdl.models.convnext import ConvNeXt
from jdl.models.crnn import CRNN
from jdl.models.dcgan import Discriminator, Generator, SpectralNormDiscriminator
from jdl.models.deep_speech import DeepSpeech2
from jdl.models.dit import DiT
from jdl.models.efficientnet import EfficientNet, Stage
from jdl.models.embedding_bag import EmbeddingBag
from jdl.models.factorization import MatrixFactorization
from jdl.models.fast_speech import FastSpeech
from jdl.models.fcos import FCOS
from jdl.models.gnn import GAT, GCN, GIN, GNN, SAGE
from jdl.models.gpt import GPT
from jdl.models.lenet import LeNet5
from jdl.models.mae import MaskedAutoencoder
from jdl.models.mlp import MLP
from jdl.models.mpnn import MPNN
from jdl.models.nbeats import NBEATS
from jdl.models.pose_resnet import PoseResNet
from jdl.models.realnvp import RealNVP
from jdl.models.resnet import ResNet
from jdl.models.rnn import RNN
from jdl.models.sasrec import SASRec
from jdl.models.sequence_cnn import SequenceCNN
from jdl.models.sound_cnn import SoundCNN
from jdl.models.t5 import T5
from jdl.models.tcn import TCN
from jdl.models.transformer import TransformerConfig
from jdl.models.two_towers import TwoTowers
from jdl.models.unet import UNet
from jdl.models.vit import ViT
from jdl.models.word_vectors import WordVectors
from jdl.objectives import (
    adversarial,
    arcface,
    autoencode,
    byol,
    classify,
    contrastive,
    crf,
    ctc,
    deep_clustering,
    deep_svdd,
    detect,
    diffusion,
    elbo,
    estimate_pose,
    extractive_qa,
    forecast_quantiles,
    hinge_gan,
    link_prediction,
    masked_patches,
    next_token,
    normalizing_flow,
    recommend,
    segment,
    seq2seq,
    simclr,
    skip_gram,
    text_to_speech,
    triplet,
    wasserstein,
)
from jdl.objectives.model_keywords import signature_of
from jdl.objectives.pretrained_model import Weights
from jdl.types import Batch, Learner, Objective
from jdl.weights.load import arrays_by_path

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


TABLE = [
    Row("perceptron", MLP(5), (4, 4, 1), 16 * 5 + 5, 1e-1),
    Row("mlp", MLP(5, hidden=(32, 16)), (4, 4, 1), (16 * 32 + 32) + (32 * 16 + 16) + (16 * 5 + 5)),
    Row(
        "cnn",
        CNN(5, blocks=((4, 1), (8, 1)), dense=(16,)),
        (9, 8, 2),
        76 + 296 + (32 * 16 + 16) + 85,
    ),
    Row(
        "cnn-norm",
        CNN(5, blocks=((4, 2), (8, 1)), dense=(), batch_norm=True),
        (8, 8, 1),
        (36 + 8) + (144 + 8) + (288 + 16) + (32 * 5 + 5),
    ),
    Row(
        "lenet",
        LeNet5(5),
        (28, 28, 1),
        156 + 2_416 + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 5 + 5),
        3e-3,
    ),
    Row(
        "alexnet",
        AlexNet(5, channels=(8, 16, 16, 16, 16), dense=(32,), dropout=0.0),
        (15, 15, 1),
        80 + 3_216 + 3 * 2_320 + (16 * 32 + 32) + (32 * 5 + 5),
        3e-3,
    ),
    Row(
        "resnet",
        ResNet(5, ((8, 1), (16, 1))),
        (8, 8, 2),
        (144 + 16) + 2 * (576 + 16) + (1_152 + 32) + (2_304 + 32) + (128 + 32) + (16 * 5 + 5),
    ),
    Row(
        "resnet-bottleneck",
        ResNet(5, ((4, 1), (8, 1)), bottleneck=True, large_images=True),
        (16, 16, 1),
        (196 + 8) + (24 + 152 + 2 * 96) + (144 + 592 + 320 + 576) + (32 * 5 + 5),
    ),
    Row(
        "efficientnet",
        EfficientNet(
            5, 0.25, stages=(Stage(4, 48, 2, 5),), strides=(1, 2), dropout=0.0, drop_path=0.0
        ),
        (8, 8, 1),
        88 + (320 + 864 + 162 + 544) + (1_152 + 1_728 + 580 + 1_056) + 864 + (48 * 5 + 5),
    ),
    Row(
        "mobilenet-v3",
        EfficientNet(
            5,
            0.25,
            stages=(Stage(2.5, 48, 1, 3, True, nn.relu),),
            strides=(1, 2),
            dropout=0.0,
            activation=nn.hard_swish,
            top=6,
            hidden=8,
            hard_squeeze=True,
        ),
        (8, 8, 1),
        88 + (240 + 264 + 416 + 416) + 1_296 + (72 * 8 + 8) + (8 * 5 + 5),
    ),
    Row(
        "convnext",
        ConvNeXt(5, ((4, 1), (8, 1)), 2, kernel=3, layer_scale=0.1, drop_path=0.0),
        (8, 8, 1),
        (4 * 4 + 4 + 8)
        + (9 * 4 + 4 + 8 + 2 * 64 + 16 + 4 + 4)  # the stem, the first stage
        + (8 + 16 * 8 + 8)
        + (9 * 8 + 8 + 16 + 2 * 256 + 32 + 8 + 8)
        + 16
        + (8 * 5 + 5),
    ),
    Row("rnn", RNN(5, (8, 6), ELMAN), (6, 3), (8 * 11 + 8) + (6 * 14 + 6) + 35, ragged=True),
    Row("gru", RNN(5, (8,), GRU), (6, 3), 3 * 8 * (3 + 8 + 2) + 45, ragged=True),
    Row("lstm", RNN(5, (8,), LSTM), (6, 3), 4 * 8 * (3 + 8 + 1) + 45, ragged=True),
    Row(
        "lstm-both-ways",
        RNN(5, (8,), LSTM, bidirectional=True, vocab_size=SIZE, embedding_width=4),
        (6,),
        13 * 4 + 2 * 4 * 8 * (4 + 8 + 1) + (16 * 5 + 5),
        3e-2,
        ragged=True,
    ),
    Row(
        "lstm-language",
        RNN(SIZE, (16,), LSTM, return_sequences=True, vocab_size=SIZE, embedding_width=4),
        (6,),
        13 * 4 + 4 * 16 * (4 + 16 + 1) + (16 * 13 + 13),
        3e-2,
        next_token,
        (6, SIZE),
    ),
    Row(
        "lstm-ctc",
        RNN(
            10,
            (16,),
            LSTM,
            bidirectional=True,
            return_sequences=True,
            vocab_size=SIZE,
            embedding_width=4,
        ),
        (6,),
        13 * 4 + 2 * 4 * 16 * (4 + 16 + 1) + (32 * 10 + 10),
        3e-2,
        partial(ctc, frames=2),
        (6, 10),
        ragged=True,
    ),
    Lines(
        "crnn",
        CRNN(5, (4, 8, 8), (8,)),
        (8, 24, 1),
        (36 + 8) + (288 + 16) + (576 + 16) + 2 * 4 * 8 * (8 + 8 + 1) + (16 * 5 + 5),
        objective=ctc,
        output=(6, 5),
    ),
    Pixels(
        "unet-segment",
        UNet((8, 8), outputs=3),
        (8, 8, 1),
        UNET + (9 * 16 * 3 + 3),
        objective=segment,
        output=(8, 8, 3),
    ),
    Sounds(
        "deep-speech",
        DeepSpeech2(5, 8_000, n_mels=4, n_fft=32, hop=4, channels=(4, 8), hidden=(8,)),
        (6 * 4 * 4,),
        (36 + 8) + (288 + 16) + 2 * 3 * 8 * (8 + 8 + 2) + (16 * 5 + 5),
        objective=ctc,
        output=(6, 5),
    ),
    Bases(
        "sequence-cnn",
        SequenceCNN(5, 4, 3, ((8, 3),), ()),
        (16,),
        (3 * 4 * 4 + 4) + (3 * 4 * 8 + 8) + (8 * 5 + 5),
        3e-2,
        ragged=True,
    ),
    Sounds(
        "sound-cnn",
        SoundCNN(5, 8_000, n_mels=4, n_fft=32, hop=4, blocks=((4, 1), (8, 1)), dense=()),
        (24 * 4,),
        (36 + 8) + (288 + 16) + (48 * 5 + 5),
    ),
    Tagged(
        "lstm-crf",
        RNN(
            5,
            (8,),
            LSTM,
            bidirectional=True,
            return_sequences=True,
            vocab_size=SIZE,
            embedding_width=4,
        ),
        (6,),
        13 * 4 + 2 * 4 * 8 * (4 + 8 + 1) + (16 * 5 + 5) + (5 * 5 + 5 + 5),
        3e-2,
        crf,
        (6, 5),
        ragged=True,
    ),
    Row("vit", ViT(5, 4, ONE), (8, 12, 2), (32 * 8 + 8) + 6 * 8 + BLOCK + 16 + 45),
    Row("gpt", GPT(SIZE, ONE), (6,), 13 * 8 + BLOCK + 16, 2e-2, next_token, (6, SIZE)),
    Row(
        "gpt-grouped",
        GPT(SIZE, replace(ONE, kv_heads=1, rotary=False, pre_norm=False, remat=True)),
        (6,),
        (13 + 16) * 8 + 16 + BLOCK - (2 * 8 * 4 + 4),
        2e-2,
        next_token,
        (6, SIZE),
    ),
    Row(
        "gpt-local",
        GPT(
            SIZE,
            replace(ONE, depth=2, kv_heads=1, window=2, global_every=2, attention_cap=3.0),
            tied=False,
            logit_cap=9.0,
        ),
        (6,),
        13 * 8 + 2 * (BLOCK - (2 * 8 * 4 + 4)) + 16 + 8 * 13,
        2e-2,
        partial(next_token, chunk=2, z_loss=1e-3),
        (6, SIZE),
    ),
    Row(
        "gpt-experts",
        GPT(SIZE, replace(ONE, depth=2, attention_every=2, experts=4, mlp_width=8)),
        (6,),
        (13 * 8 + 16)
        + (3 * 8 * 8 + 4 * 8 + (8 * 16 + 16) + 8)  # the recurrent mixer
        + (4 * 8 * 8 + 3 * 8)  # attention
        + 2 * (4 * (2 * 8 * 8 + 16) + 8 * 4 + 2 * 16),
        2e-2,
        next_token,
        (6, SIZE),
    ),
    Row(
        "gpt-balanced",
        GPT(SIZE, replace(ONE, experts=3, mlp_width=8, balance_bias=True)),
        (6,),
        13 * 8 + 16 + (4 * 8 * 8 + 3 * 8) + (3 * (2 * 8 * 8 + 16) + 8 * 3 + 3 + 2 * 16),
        2e-2,
        next_token,
        (6, SIZE),
        wrap=lambda learner: replace(
            learner, optimizer=jdl.optim.balance_experts(learner.optimizer, 0.01)
        ),
    ),
    Row(
        "gpt-scan",
        GPT(SIZE, replace(ONE, depth=2, dropout=0.1, scan=True, remat=True)),
        (6,),
        13 * 8 + 2 * BLOCK + 16,
        2e-2,
        next_token,
        (6, SIZE),
    ),
    Row("bert", BERT(SIZE, ONE, outputs=5), (6,), 13 * 8 + BLOCK + 16 + 45, 2e-2, ragged=True),
    Spans(
        "bert-spans",
        BERT(SIZE, ONE, outputs=2, pool=False, token_types=2),
        (6,),
        (13 + 2) * 8 + BLOCK + 16 + (8 * 2 + 2),
        2e-2,
        partial(extractive_qa, no_answer=True),
        (6, 2),
        ragged=True,
    ),
    Row(
        "t5",
        T5(SIZE, ONE),
        (6,),
        13 * 8 + (BLOCK + 16) + (BLOCK + 16) + (8 * 8 * 4 + 3 * 8 + 16),
        2e-2,
        partial(seq2seq, eos_id=0),
        (3, SIZE),
        ragged=True,
    ),
    Row(
        "t5-copy",
        T5(SIZE, ONE, copying=True),
        (6,),
        13 * 8 + (BLOCK + 16) + (BLOCK + 16) + (8 * 8 * 4 + 3 * 8 + 16) + (8 * 8 * 2 + 8 + 9),
        1e-2,
        partial(seq2seq, eos_id=0),
        (3, SIZE),
        ragged=True,
    ),
    Row(
        "captioner",
        Captioner(SIZE, ResNet(None, ((4, 1), (8, 1))), ONE),
        (4, 4, 1),
        (36 + 8 + 304 + 304 + 592 + 48)  # the backbone
        + ((8 * 8 + 8) + 4 * 8)  # its features, and positions
        + 13 * 8
        + (BLOCK + 16)
        + (8 * 8 * 4 + 3 * 8 + 16),
        2e-2,
        partial(seq2seq, eos_id=0),
        (3, SIZE),
    ),
    Nodes("gcn", GNN(5, (8,), GCN), (6, 4), (4 * 8 + 8) + (8 * 5 + 5), 3e-2, output=(6, 5)),
    Nodes(
        "sage",
        GNN(5, (8,), SAGE, global_mean_pool=True),
        (6, 4),
        (2 * 4 * 8 + 8) + (8 * 5 + 5),
        3e-2,
    ),
    Nodes(
        "gin",
        GNN(5, (8,), GIN, global_mean_pool=True, norm=LayerNorm),
        (6, 4),
        (1 + 4 * 8 + 8 + 8 * 8 + 8) + (8 + 8) + (8 * 5 + 5),
        3e-2,
    ),
    Nodes(
        "gat",
        GNN(5, (8,), partial(GAT, heads=2)),
        (6, 4),
        (4 * 8 + 2 * 8 + 8) + (8 * 10 + 2 * 10 + 5),
        3e-2,
        output=(6, 5),
    ),
    Nodes(
        "mpnn",
        MPNN(5, 8, steps=1),
        (6, 4),
        (16 + 8 * 64 + 64)  # the edge network, without edge features
        + (4 * 8 + 8)
        + 2 * (6 * 64 + 4 * 8)  # two GRUs
        + (16 * 8 + 8 + 2 * 72)
        + (8 * 5 + 5),
        2e-2,
    ),
    Row("plain-linen", Plain(), (4, 4, 1), (16 * 16 + 16) + 2 * 16 + (16 * 5 + 5), 3e-2),
    Row(
        "plain-nnx",
        jdl.nnx(lambda rngs: PlainNNX(rngs)),
        (4, 4, 1),
        (16 * 16 + 16) + 2 * 16 + (16 * 5 + 5),
        3e-2,
    ),
    Row("pair", jdl.Model(init_pair, apply_pair), (4, 4, 1), 16 * 16 + 16 + 16 * 5 + 5, 3e-2),
    Row(
        "pair-stateful",  # not by pmap, nor elastic: parts of a batch cannot share its state
        jdl.Model(init_stateful_pair, apply_stateful_pair, stateful=True),
        (4, 4, 1),
        16 * 16 + 16 + 16 * 5 + 5,
        3e-2,
    ),
    Columns(
        "adapted",
        jdl.adapt_model(TwoInputs(), inputs=("more", "x"), outputs="logits"),
        (4, 4, 1),
        (19 * 16 + 16) + (16 * 5 + 5),
        3e-2,
    ),
]


def given_weights() -> tuple[dict[str, Any], str, str]:
    """Weights of the teacher, as of a file, what stands for its SHA-256, and a source."""
    model = TEACHER.model
    return arrays_by_path(model.init(jax.random.key(9), jnp.ones((1, 8, 8, 1)))), "0" * 64, "given"


TEACHER = jdl.pretrained(CNN(5, ((6, 1),), dense=(), batch_norm=True), Weights(given_weights))

UNSUPERVISED = [
    Images(
        "autoencoder",
        Autoencoder((4, 4, 1), 3, hidden=(8,), batch_norm=True),
        (4, 4, 1),
        (16 * 8 + 8) + (8 * 3 + 3) + (3 * 8 + 8) + (8 * 16 + 16),
        objective=partial(autoencode, noise=0.1),
    ),
    Images(
        "vae",
        VAE((8, 8, 1), 3, (4,), (6,)),
        (8, 8, 1),
        40 + (64 * 6 + 6) + (6 * 6 + 6) + (3 * 6 + 6) + (6 * 64 + 64) + (9 * 4 * 4 + 4),
        objective=partial(elbo, importance_samples=3),
    ),
    Images(
        "gan",
        Generator((8, 8, 1), (8, 4)),
        (8, 8, 1),
        (5 * 32 + 16) + (9 * 8 * 32 // 2 + 8) + (9 * 4 * 4 + 4) + 40 + 296 + 33,
        objective=lambda generator: adversarial(generator, Discriminator((4, 8)), 5, wasserstein),
    ),
    Images(
        "gan-spectral",
        Generator((8, 8, 1), (8, 4), full_size_channels=3),
        (8, 8, 1),
        (5 * 32 + 16) + (9 * 8 * 16 + 8) + (9 * 4 * 12 + 6) + (9 * 3 + 1) + 68 + 520 + 584 + 33,
        3e-3,
        lambda generator: adversarial(generator, SpectralNormDiscriminator((4, 8)), 5, hinge_gan),
    ),
    Images(
        "clusters",
        Autoencoder((8, 8, 1), 3, hidden=(8,)),
        (8, 8, 1),
        (64 * 8 + 8) + (8 * 3 + 3) + (3 * 8 + 8) + (8 * 64 + 64) + 4 * 3,
        objective=partial(deep_clustering, clusters=4, noise=0.1, contrastive_weight=0.1),
    ),
    Images(
        "distilled",
        CNN(5, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 5 + 5) + 4 * 6,
        objective=lambda student: jdl.distil(
            classify(student), TEACHER, weight=0.5, features={"Conv_0": "Conv_0"}
        ),
    ),
    Images(
        "mutual",
        CNN(5, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 5 + 5) + (9 * 6 + 12) + (96 * 5 + 5),
        objective=lambda student: jdl.mutual(
            classify(student), CNN(5, ((6, 1),), dense=(), batch_norm=True)
        ),
    ),
    Images(
        "fake-quantized",
        CNN(5, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 5 + 5),
        objective=lambda model: jdl.fake_quantize(classify(model), "kernel", activations=True),
    ),
    Images(
        "triplet",
        CNN(4, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 4 + 4),
        objective=triplet,
    ),
    Images(
        "arcface",
        CNN(4, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 4 + 4) + 5 * 4,
        objective=partial(arcface, classes=5),
    ),
    Images(
        "simclr",
        MLP(4, (6,)),
        (8, 8, 1),
        (64 * 6 + 6) + (6 * 4 + 4) + (4 * 6 + 6) + (6 * 3 + 3),
        objective=partial(simclr, projection=MLP(3, (6,)), augment=NOISE),
    ),
    Images(
        "byol",
        CNN(4, ((4, 1),), dense=(), batch_norm=True),
        (8, 8, 1),
        (9 * 4 + 8) + (64 * 4 + 4) + (4 * 3 + 3) + (3 * 3 + 3),
        objective=partial(byol, projection=MLP(3), prediction=MLP(3), augment=NOISE),
        wrap=jdl.target_network,
    ),
    Patches(
        "mae",
        MaskedAutoencoder(4, ONE, ONE),
        (8, 8, 1),
        (16 * 8 + 8 + 4 * 8 + BLOCK + 16) + (72 + 8 + 4 * 8 + BLOCK + 16 + (8 * 16 + 16)),
        objective=partial(masked_patches, patch_size=4, mask_ratio=0.5),
    ),
    Captioned(
        "two-towers",
        CNN(4, ((4, 1),), dense=(), batch_norm=True),
        (8, 16, 1),
        (9 * 4 + 8) + (128 * 4 + 4) + (13 * 4 + 13) + 1,
        objective=lambda model: contrastive(model, EmbeddingBag(SIZE, 4)),
    ),
    Captioned(
        "clip",
        CLIP(
            ViT(None, 4, ONE, "class", embedding_norm=True),
            TextTower(SIZE, replace(ONE, rotary=False)),
            4,
            (8, 16, 1),
        ),
        (8, 16, 1),
        (16 * 8 + 9 * 8 + 8 + 16 + BLOCK + 16) + ((13 + 16) * 8 + BLOCK + 16) + 2 * 8 * 4 + 1,
        3e-3,
        objective=contrastive,
    ),
    Images(
        "unet",
        UNet((8, 8), classes=5),
        (8, 8, 1),
        CONDITIONING + UNET + 5 * MODULATION + (9 * 16 + 1),
        objective=partial(diffusion, classes=5),
    ),
    Images(
        "dit",
        DiT(4, replace(ONE, rotary=False)),
        (8, 8, 1),
        (16 * 8 + 8) + 4 * 8 + 2 * 72 + (BLOCK - 2 * 16) + 2 * (8 * 24 + 24) + 2 * (8 * 16 + 16),
        2e-2,
        objective=diffusion,
    ),
    Images(
        "realnvp",
        RealNVP(2, hidden=(8,)),
        (4, 4, 1),
        2 * ((16 * 8 + 8) + (8 * 32 + 32)),
        objective=partial(normalizing_flow, levels=2),
    ),
    Boxes(
        "fcos",
        FCOS(3, ResNet(None, ((4, 1), (8, 1))), 8, 1, 2),
        (16, 16, 1),
        (36 + 8 + 304 + 304 + 592 + 48)  # the backbone
        + ((72 + 40) + 2 * 584)  # the pyramid
        + (2 * 592 + (9 * 8 * 3 + 3) + (9 * 8 * 5 + 5)),
        objective=detect,
    ),
    Keypoints(
        "pose-resnet",
        PoseResNet(2, ResNet(None, ((4, 1), (8, 1))), 8, 1),
        (16, 16, 1),
        (36 + 8 + 304 + 304 + 592 + 48)  # the backbone
        + (9 * 8 * 32 + 16 + 8 * 2 + 2),
        objective=estimate_pose,
    ),
    Forecasts(
        "tcn",
        TCN(4 * 3, (4,), 2),
        (6, 2),
        (2 * 4 + 4) + (4 * 4 + 4) + (8 * 4 + 4) + (4 * 12 + 12),
        objective=partial(forecast_quantiles, scale=2.0, naive_error=0.5),
    ),
    Forecasts(
        "nbeats",
        NBEATS(4 * 3, 2, 1, 8, 3),
        (6, 2),
        2 * ((12 * 8 + 8) + (8 * 3 + 3 * 12 + 12)) + (8 * 3 + 3 * 12 + 12),
        objective=forecast_quantiles,
    ),
    Images(
        "deep-svdd",
        MLP(3, (8,), use_bias=False),
        (4, 4, 1),
        16 * 8 + 8 * 3,
        objective=deep_svdd,
    ),
    Speech(
        "fast-speech",
        FastSpeech(5, 4, ONE, decoder_depth=1, kernel=3),
        (24 * 4,),
        5 * 8 + 2 * (BLOCK + 2 * 8 * 32 + 16 + (8 * 4 + 4)) + 9,
        objective=partial(text_to_speech, log_mel=LogMel(8_000, 32, 4, 4), max_frames=24),
        output=(24, 4),
    ),
    Users(
        "sasrec",
        SASRec(SIZE, replace(ONE, rotary=False)),
        (6,),
        (13 + 16) * 8 + BLOCK + 16,
        2e-2,
        recommend,
        ragged=True,
    ),
    Users(
        "matrix-factorization",
        jdl.adapt_model(MatrixFactorization(ROWS, SIZE, 8), inputs=("user",)),
        (6,),
        12 * 8 + 13 * 8 + 13,
        5e-2,
        partial(recommend, loss="bpr"),
    ),
    Users(
        "item-towers",
        TwoTowers(SIZE, 8, (8,), features=np.eye(SIZE, 3, dtype=np.float32)),
        (6,),
        13 * 8 + 3 * 8 + 2 * (8 * 8 + 8),
        5e-2,
        partial(recommend, loss="in_batch", counts=(0, *range(1, SIZE))),
        ragged=True,
    ),
    Row(
        "word-vectors",
        WordVectors(SIZE, 4),
        (6,),
        2 * 13 * 4,
        1e-1,
        partial(skip_gram, counts=(1,) * SIZE),
        (6, 4),
        ragged=True,
    ),
    Nodes(
        "link",
        GNN(5, (8,), GCN),
        (6, 4),
        (4 * 8 + 8) + (8 * 5 + 5),
        5e-2,
        objective=link_prediction,
    ),
]
