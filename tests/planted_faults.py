"""Faults that are planted in small runs, for tests/test_check.py to find."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from model_rows import ROWS

import jdl
from jdl.inspect.sanity.columns import check_columns, check_features
from jdl.inspect.sanity.labels import (
    check_label_leakage,
    check_labels,
    check_shuffled_labels,
)
from jdl.inspect.sanity.rows import (
    check_future,
    check_labels_in_inputs,
    check_padding,
    check_repeats,
    check_rows,
)
from jdl.inspect.sanity.training import (
    check_activations,
    check_first_loss,
    check_gradients,
    check_overfit,
    check_parameters,
    check_relus,
)
from jdl.models.mlp import MLP
from jdl.objectives import classify, next_token, regress
from jdl.objectives.classification import Classification

STEPS = 30


CLASSES, FEATURES = 4, 8


def table(**columns):
    """Rows of 8 numbers with 4 classes, which the first four numbers decide."""
    x = np.random.default_rng(0).normal(size=(256, FEATURES)).astype(np.float32)
    y = x[:, :CLASSES].argmax(1).astype(np.int32)
    return jdl.data.arrays(**{"x": x, "y": y, **columns})


def run_of(objective, data=None, optimizer=None):
    data = table() if data is None else data
    train, test = data.split(0.75, 0.25)
    learner = jdl.descent(objective, optax.adam(1e-2) if optimizer is None else optimizer)
    config = jdl.Config(name="checked", steps=1_000)
    return jdl.Run(config, learner, train.shuffled(32, 0), test=test.batches(50))


class Net(nn.Module):
    """Three dense layers, with room for a fault between them and in their initial weights."""

    fault: Callable[[Any], Any] = lambda x: x
    activation: Callable[[Any], Any] = nn.relu
    scale: float = 1.0
    bias: float = 0.0
    unused: bool = False
    zero: bool = False  # the last layer at the start
    zeros: bool = False  # all layers
    width: int = 32

    @nn.compact
    def __call__(self, x):
        def dense(features):
            kernel = nn.initializers.variance_scaling(self.scale, "fan_in", "normal")
            kernel = nn.initializers.zeros if self.zeros else kernel
            bias = nn.initializers.constant(self.bias)
            return nn.Dense(features, kernel_init=kernel, bias_init=bias)

        if self.unused:
            self.param("unused", nn.initializers.ones, (3,))
        x = self.activation(dense(self.width)(x))
        x = self.activation(dense(self.width)(self.fault(x)))
        last = nn.initializers.zeros if self.zero or self.zeros else nn.initializers.lecun_normal()
        return nn.Dense(CLASSES, kernel_init=last)(x)


class LayerScale(nn.Module):
    """A residual branch that is scaled by a small number at the start (Touvron et al., 2021)."""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.constant(1e-7), (1, x.shape[-1]))
        return MLP(CLASSES, (16,))(x + scale * nn.Dense(x.shape[-1])(nn.tanh(nn.Dense(32)(x))))


class Reads(nn.Module):
    """A model of two columns that ignores the second one, or reads it."""

    reads: bool

    @nn.compact
    def __call__(self, x, more):
        more = more.reshape(len(x), -1).astype(x.dtype)
        return MLP(CLASSES, (16,))(jnp.concatenate([x, more], -1) if self.reads else x)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=False)(nn.Dense(16)(x))
        return nn.Dense(CLASSES)(x)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False)(nn.Dense(16)(x))
        return nn.Dense(CLASSES)(x)


class Language(nn.Module):
    """A language model that sees the mean of all tokens, or of those so far."""

    causal: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Embed(7, 8)(x)
        count = jnp.arange(1, x.shape[1] + 1, dtype=x.dtype)[None, :, None]
        mean = x.cumsum(1) / count if self.causal else x + x.mean(1, keepdims=True)
        return nn.Dense(7)(nn.relu(nn.Dense(16)(mean)))


class NoisyEvaluation(Classification):
    """A classification that is in training mode always."""

    def loss(self, variables, batch, key, train):
        return super().loss(variables, batch, key, True)


class OwnObjective(jdl.Objective):
    """A cross-entropy that counts padding rows, or that is in training mode always."""

    def __init__(self, dropout=0.0, mask=True):
        self.model, self.mask = MLP(CLASSES, (16,), dropout=dropout), mask

    def init(self, key, batch):
        return self.model.init(key, batch["x"])

    def loss(self, variables, batch, key, train):
        logits = self.model.apply(variables, batch["x"], train=True, rngs={"dropout": key})
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return jdl.LossOutput(jdl.Mean.of(losses, batch["mask"] if self.mask else None), {}, {})


def over_rows(logits, labels):
    """The cross-entropy of a softmax over the wrong axis."""
    return -jnp.take_along_axis(nn.log_softmax(logits, 0), labels[:, None], 1)[:, 0]


def texts():
    tokens = np.random.default_rng(0).integers(0, 7, (128, 9)).astype(np.int32)
    return jdl.data.arrays(x=tokens)


Y = np.asarray(table().take(np.arange(256))["y"])
X = np.asarray(table().take(np.arange(256))["x"])
MORE = np.random.default_rng(1).normal(size=(256, 2)).astype(np.float32)
WITH_LABEL = np.concatenate([X, Y[:, None].astype(np.float32)], 1)


def adapted(reads, column):
    return classify(jdl.adapt_model(Reads(reads), inputs=("x", column)))


def mlp(**options):
    return classify(MLP(CLASSES, (16,)), **options)


@dataclass(frozen=True)
class Fault:
    """A fault that is planted: a run, the check that finds it, and a part of what it says."""

    name: str
    run: Callable[[], jdl.Run]
    check: Callable[[Any], Any]
    says: str
    verdict: str = "wrong"


MANY = Y + CLASSES * np.random.default_rng(2).integers(0, 16, 256)  # 64 values
MEASURED = Y + np.random.default_rng(2).uniform(0, 0.5, 256)  # 256 values


def beside(numbers):
    """The features, and these numbers as one more."""
    return table(x=np.concatenate([X, numbers[:, None].astype(np.float32)], 1))


FIRST_SEVEN = jdl.adapt_model(MLP(CLASSES, (16,)), inputs=lambda batch: ((batch["x"][:, :7],), {}))


FAULTS = [
    Fault(
        "loss over the wrong axis", lambda: run_of(mlp(loss=over_rows)), check_padding, "mixes rows"
    ),
    Fault(
        "softmax over the rows",
        lambda: run_of(classify(Net(lambda x: nn.softmax(x, 0)))),
        check_rows,
        "seen first in the output of Dense_1",
    ),
    Fault(
        "statistics of the batch in evaluation",
        lambda: run_of(classify(Net(lambda x: x - x.mean(0, keepdims=True)))),
        check_rows,
        "BatchNorm in training mode",
    ),
    Fault(
        "dropout in evaluation",
        lambda: run_of(NoisyEvaluation(MLP(CLASSES, (16,), dropout=0.5), None, 0.0, 1, ())),
        check_repeats,
        "dropout",
    ),
    Fault(
        "random numbers of an objective of one's own",
        lambda: run_of(OwnObjective(dropout=0.5)),
        check_repeats,
        "draws",
        "note",  # a VAE, diffusion or masking draws from the same key
    ),
    Fault(
        "labels from 1",
        lambda: run_of(classify(MLP(CLASSES + 1, (16,))), table(y=Y + 1)),
        check_labels,
        "off by one",
    ),
    Fault(
        "labels of the next row",
        lambda: run_of(mlp(), table(y=np.roll(Y, 1))),
        check_shuffled_labels,
        "belong together",
        "note",
    ),
    Fault(
        "a detached part",
        lambda: run_of(classify(Net(jax.lax.stop_gradient))),
        check_parameters,
        "no gradient reaches Dense_0/bias, Dense_0/kernel\n",
        "note",  # a frozen backbone is the same
    ),
    Fault(
        "a rounded part",
        lambda: run_of(classify(Net(jnp.round))),
        check_parameters,
        "rounding cuts them off",
    ),
    Fault(
        "a parameter that is not used",
        lambda: run_of(classify(Net(unused=True))),
        check_parameters,
        "never used: unused",
    ),
    Fault(
        "padding that counts",
        lambda: run_of(OwnObjective(mask=False)),
        check_padding,
        "ignores the mask",
    ),
    Fault(
        "the future seen",
        lambda: run_of(next_token(Language(False)), texts()),
        check_future,
        "causal mask",
    ),
    Fault(
        "the label read",
        lambda: run_of(adapted(True, "y")),
        check_labels_in_inputs,
        "reads the labels",
    ),
    Fault(
        "the label read, when shuffled",
        lambda: run_of(adapted(True, "y"), optimizer=optax.adam(5e-2)),
        check_shuffled_labels,
        "reaches the model",
    ),
    Fault(
        "the label among the features",
        lambda: run_of(mlp(), table(x=WITH_LABEL)),
        check_label_leakage,
        "read off x[8] alone: its values and the classes are one to one",
    ),
    Fault(
        "the label in a code of many values",
        lambda: run_of(mlp(), beside(MANY)),
        check_label_leakage,
        "read off x[8] alone",
        "note",
    ),
    Fault(
        "the label in a measurement",
        lambda: run_of(mlp(), beside(MEASURED)),
        check_label_leakage,
        "Of data that are easy it may be so",
        "note",
    ),
    Fault(
        "the target, a column, in another unit",
        lambda: run_of(regress(MLP(1, (16,))), table(y=2.5 * X[:, :1] + 3)),
        check_label_leakage,
        "read off x[0] alone: it is a + b x",
        "note",
    ),
    Fault(
        "labels that are all unknown",
        lambda: run_of(
            classify(nn.Dense(CLASSES)), jdl.data.arrays(x=X[:, None], y=0 * Y[:, None] - 1)
        ),
        check_labels,
        "all labels of 192 rows are negative",
    ),
    Fault(
        "a column ignored",
        lambda: run_of(adapted(False, "more"), table(more=MORE)),
        check_columns,
        "ignores more",
    ),
    Fault(
        "a feature ignored", lambda: run_of(classify(FIRST_SEVEN)), check_features, "features 7 of"
    ),
    Fault("dead ReLUs", lambda: run_of(classify(Net(bias=-30.0))), check_relus, "Dying ReLU"),
    Fault(
        "weights that explode",
        lambda: run_of(classify(Net(scale=1e6))),
        check_activations,
        "Exploding",
    ),
    Fault(
        "a large first loss", lambda: run_of(classify(Net(scale=1e3))), check_first_loss, "large"
    ),
    Fault(
        "a large first loss that is got over",
        lambda: run_of(classify(Net(scale=20.0))),
        check_first_loss,
        "gets over it",
        "note",  # as of sums over a graph's nodes
    ),
    Fault(
        "gradients that vanish",
        lambda: run_of(classify(Net(lambda x: 1e-7 * x))),
        check_gradients,
        "Vanishing in Dense_0",
    ),
    Fault(
        "a rate too large",
        lambda: run_of(classify(Net()), optimizer=optax.adam(30.0)),
        check_overfit,
        "too large",
    ),
    Fault(
        "a rate of 0",
        lambda: run_of(classify(Net()), optimizer=optax.sgd(0.0)),
        check_overfit,
        "learning rate 0",
    ),
    Fault(
        "a schedule's rate too large",
        lambda: run_of(classify(Net()), optimizer=optax.adam(optax.linear_schedule(0, 30.0, 500))),
        check_overfit,
        "too large",
    ),
]


def of_table(row):
    """A run of a row of the table of models."""
    data = {name: np.asarray(column) for name, column in row.batch().items() if name != "mask"}
    loader = jdl.data.arrays(**data).batches(ROWS)
    learner = row.wrap(jdl.descent(row.objective(row.model), optax.adamw(row.rate)))
    return jdl.Run(jdl.Config(name=row.name), learner, loader, test=loader)
