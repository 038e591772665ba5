"""Sanity checks of what learns, but wrongly: no training mode, outputs and columns, metrics.

Seen to fail: with running statistics and dropout that are not looked at, also where they are
pretrained or held, also by the model itself, and called held where nothing is frozen; with metrics
that count padding left out, their counts alone, or rows of `Rows`, whose function is not called;
with columns compared to a tolerance; with edges among the inputs that may tell labels; with
probabilities, targets and codes let through; with a learner of no `grads` taken for reinforcement,
and with far targets told as a small rate; zero weights and dead ReLUs told as an argmax, as a small
rate and as a column and parameters that nothing reads, by the code before; Dense_10 before Dense_2;
batches of one key, by comparing their ids too; batches of ids alone
said to differ; padding rows that make NaN, without gradients of them.
"""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from planted_faults import Net
from test_check import CLASSES, STEPS, X, mlp, run_of, table

import jdl
from jdl.inspect.sanity.columns import check_columns
from jdl.inspect.sanity.labels import check_label_leakage
from jdl.inspect.sanity.outputs import check_outputs
from jdl.inspect.sanity.report import examine
from jdl.inspect.sanity.rows import check_batches, check_padding
from jdl.inspect.sanity.subject import train_on_one_batch
from jdl.inspect.sanity.training import (
    check_overfit,
    check_parameters,
    check_relus,
    layer_gradients,
)
from jdl.inspect.sanity.training_mode import check_training_mode
from jdl.models.tabular import TabularMLP
from jdl.objectives import classify, classify_binary, freeze, regress, with_metrics
from jdl.train.unread_columns import GIVE_WEIGHTS, unread_notes


class Modes(nn.Module):
    """A network with BatchNorm or Dropout, in the mode of the run or in that of evaluation."""

    batch_norm: bool
    dropout: float
    follows: bool
    mean: float = 0.0  # of the running statistics at the start

    @nn.compact
    def __call__(self, x, train):
        train = train and self.follows
        x = nn.Dense(16)(x)
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(CLASSES)(x)


class Untold(nn.Module):
    """A network with BatchNorm or Dropout that no argument tells whether it trains."""

    batch_norm: bool

    @nn.compact
    def __call__(self, x):
        return Modes(self.batch_norm, 0.5, False)(x, False)


class FrozenPart(nn.Module):
    """A network whose first part is held as in evaluation, and gets no gradient."""

    batch_norm: bool
    dropout: float

    @nn.compact
    def __call__(self, x, train):
        x = Modes(self.batch_norm, self.dropout, False)(x, train)
        return nn.Dense(CLASSES)(jax.lax.stop_gradient(x))


class Pretrained(nn.Module):
    """A network whose statistics are not those of a new BatchNorm, and that keeps them."""

    @nn.compact
    def __call__(self, x):
        mean = self.variable("batch_stats", "mean", lambda: jnp.full((1, x.shape[-1]), 0.5))
        return nn.Dense(CLASSES)(x - mean.value)


class Last(nn.Module):
    """A layer whose outputs go through a function that the objective applies itself."""

    function: Any
    outputs: int = CLASSES

    @nn.compact
    def __call__(self, x):
        return self.function(nn.Dense(self.outputs)(x))


def modes(*arguments):
    return lambda: run_of(classify(Modes(*arguments)))


def frozen(*arguments):
    return lambda: run_of(classify(FrozenPart(*arguments)))


def untold(batch_norm):
    return lambda: run_of(classify(Untold(batch_norm)))


def held():
    return run_of(freeze(classify(Modes(True, 0.0, True)), "BatchNorm|Dense_0"))


def of_targets(y, target=nn.Dense(1)):
    return lambda: run_of(regress(target), table(y=y.astype(np.float32)))


def right(predictions, batch):
    return (predictions["label"] == batch["y"]).astype(jnp.float32)


def of_many(rows):
    """A metric that is not defined for a few rows."""
    assert len(rows) > 100
    return len(rows)


METRICS = {
    "a mean": lambda p, b: jdl.Mean.of(right(p, b)),
    "a mean that is 1": lambda p, b: jdl.Mean.of(jnp.ones_like(right(p, b))),
    "rows": lambda p, b: jdl.metrics.Rows.of(of_many, b["y"]),
    "rows that are 1": lambda p, b: jdl.metrics.Rows.of(len, jnp.ones_like(b["y"])),
    "a mean with the mask": lambda p, b: jdl.Mean.of(right(p, b), b["mask"]),
    "rows with the mask": lambda p, b: jdl.metrics.Rows.of(of_many, b["y"], mask=b["mask"]),
}


def measured(name):
    return lambda: run_of(with_metrics(mlp(), own=METRICS[name]))


def of_table(one_hot, model=None):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=128), "kind": rng.choice(["u", "v"], 128)})
    frame["y"] = frame.a + 5.0 * (frame.kind == "u")
    train, test = jdl.data.frame(frame, target="y", one_hot=one_hot).split(0.7, 0.3)
    learner = jdl.descent(regress(nn.Dense(1) if model is None else model), optax.adam(1e-2))
    config = jdl.Config(name="table", steps=100)
    return jdl.Run(config, learner, train.shuffled(32, 0), test=test.batches(16))


class Degrees(nn.Module):
    """A graph network that reads each node's edges."""

    @nn.compact
    def __call__(self, x, edges):
        return nn.Dense(2)(x.sum(1) + 0.1 * edges.sum((1, 2)).astype(x.dtype)[:, None])


def rings_and_paths():
    rows = []
    for i in range(256):
        path = [(a, a + 1) for a in range(4)]
        rows.append((np.ones((5, 1)), [*path, (4, 0)] if i % 2 else path, i % 2))
    return run_of(classify(Degrees()), jdl.data.graphs(rows))


@dataclass(frozen=True, eq=False)
class SameKey(jdl.Loader):
    """Batches that are drawn from one key, with ids of their own."""

    folds: bool

    def __len__(self):
        return 6

    @property
    def spec(self):
        return jax.eval_shape(self.batch, {}, 0)

    def read(self, start=0):
        while True:
            yield {}

    def batch(self, raw, i):
        key = jax.random.key(0)
        x = jax.random.normal(jax.random.fold_in(key, i) if self.folds else key, (8, 4))
        return {"x": x, "y": x.argmax(1), "mask": jnp.ones(8, bool), "id": i * 8 + jnp.arange(8)}


def drawn(folds):
    return lambda: replace(run_of(mlp()), train=SameKey(folds), test=None)


def test_batches_of_no_columns_are_not_said_to_differ():
    batch = {"id": np.arange(2), "mask": np.ones(2, bool)}
    subject = SimpleNamespace(has_rows=True, run=SimpleNamespace(train=[0, 1]))
    subject.batches = lambda number: [batch] * number
    assert check_batches(subject).verdict == "n/a"


class MeanOfSteps(nn.Module):
    """A mean over the real steps, of which a padding row has none."""

    @nn.compact
    def __call__(self, x, mask):
        mask = mask.astype(x.dtype)
        h = nn.Dense(8)(x[..., None]) * mask[..., None]
        return nn.Dense(CLASSES)(h.sum(1) / mask.sum(1, keepdims=True))


def steps():
    lengths = 1 + np.arange(256, dtype=np.int32) % 7
    return run_of(classify(MeanOfSteps()), table(length=lengths))


FAR = 1000 + 10 * table().take(np.arange(256))["y"]
BOTH = jdl.adapt_model(TabularMLP(1, (3,)), inputs=("x", "codes"))
CUT_OFF = [  # what makes gradients 0, a model, and what each check says of it
    (
        "zero weights",
        Net(zeros=True),
        {
            "parameters": (
                check_parameters,
                "by symmetry, as all weights of Dense_0/kernel, Dense",
            ),
            "loss": (check_overfit, "Dense_1/kernel, Dense_2/kernel: see unused parameters"),
            "columns": (check_columns, "no output changes with x, which the model reads"),
            "ReLUs": (check_relus, "all 0 give zeros on"),
        },
    ),
    (
        "dead ReLUs",
        Net(bias=-30.0),
        {
            "parameters": (check_parameters, "let none through: see dead ReLUs"),
            "loss": (check_overfit, "No gradient reaches Dense_0/bias"),
            "columns": (check_columns, "no output changes with x, which the model reads"),
        },
    ),
]


VERDICTS = [  # what is run, the check, its verdict, and a part of what it says
    ("BatchNorm off", untold(True), check_training_mode, "wrong", "Modes_0/BatchNorm_0"),
    ("dropout off", untold(False), check_training_mode, "wrong", "never draws"),
    ("BatchNorm held", frozen(True, 0.0), check_training_mode, "note", "of Modes_0/BatchNorm_0"),
    ("dropout held", frozen(False, 0.5), check_training_mode, "note", "a frozen part"),
    ("BatchNorm told", modes(True, 0.0, False), check_training_mode, "wrong", "Hand the model's"),
    ("dropout told", modes(False, 0.5, False), check_training_mode, "wrong", "never draws"),
    ("both on", modes(True, 0.5, True), check_training_mode, "ok", ""),
    ("dropout of rate 0", modes(False, 0.0, False), check_training_mode, "n/a", ""),
    ("held", held, check_training_mode, "ok", ""),
    ("pretrained", lambda: run_of(classify(Pretrained())), check_training_mode, "ok", ""),
    ("softmax", lambda: run_of(classify(Last(nn.softmax))), check_outputs, "wrong", "sum to 1"),
    (
        "sigmoid",
        lambda: run_of(classify_binary(Last(nn.sigmoid, 1)), table(y=(X[:, 0] > 0).astype(int))),
        check_outputs,
        "wrong",
        "a sigmoid",
    ),
    ("logits", lambda: run_of(mlp()), check_outputs, "ok", ""),
    ("far targets", of_targets(FAR), check_outputs, "wrong", "the mean 1015 and"),
    ("far targets, slowly", of_targets(FAR), check_overfit, "n/a", "see output scale"),
    ("near targets", of_targets(X[:, 0]), check_outputs, "ok", ""),
    (
        "far outputs",
        of_targets(FAR, Last(lambda out: 1000 + out, 1)),
        check_outputs,
        "ok",
        "",
    ),
    ("far targets are read", of_targets(FAR), check_columns, "ok", "depends on x, y"),
    ("codes", lambda: of_table(False), check_columns, "wrong", "the categories kind"),
    ("codes that are read", lambda: of_table(False, BOTH), check_columns, "ok", "codes"),
    ("one-hot", lambda: of_table(True), check_columns, "ok", ""),
    ("a mean of nothing", steps, check_padding, "wrong", "whose mask is false"),
    ("one key", drawn(False), check_batches, "note", "fold_in"),
    ("a key for each batch", drawn(True), check_batches, "ok", ""),
    ("edges", rings_and_paths, check_label_leakage, "ok", ""),
    *(
        (f"{name}, {of}", lambda net=net: run_of(classify(net)), check, "wrong", says)
        for of, net, checks in CUT_OFF
        for name, (check, says) in checks.items()
    ),
    *(
        (name, measured(name), check_padding, "ok" if "mask" in name else "wrong", "")
        for name in METRICS
    ),
]


@pytest.mark.parametrize(
    ("run", "check", "verdict", "says"), [row[1:] for row in VERDICTS], ids=[r[0] for r in VERDICTS]
)
def test_what_goes_wrong_in_silence_is_told(run, check, verdict, says):
    found = check(train_on_one_batch(run(), STEPS))
    assert found.verdict == verdict, found
    assert says in str(found)


def test_the_layers_are_in_the_order_of_their_numbers():
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(11):
                x = nn.Dense(4)(x)
            return x

    subject = train_on_one_batch(run_of(classify(Deep())), 2)
    assert [row.layer for row in layer_gradients(subject)] == [f"Dense_{n}" for n in range(11)]


def test_a_training_says_which_categories_its_model_does_not_read():
    (note,) = unread_notes(of_table(False))
    assert "the categories kind: one_hot=True" in note
    assert [unread_notes(run) for run in (of_table(True), of_table(False, BOTH))] == [[], []]


@pytest.mark.parametrize("row_weights", [None, "weight"])
def test_a_training_says_that_its_loss_does_not_read_the_weights(row_weights):
    columns = {"x": np.ones((8, 3), np.float32), "y": np.arange(8) % 2}
    data = jdl.data.arrays(**columns, weight=np.ones(8, np.float32))
    objective = classify(Last(nn.relu), row_weights=row_weights)
    run = jdl.Run(jdl.Config("w"), jdl.descent(objective, optax.sgd(0.1)), data.shuffled(4, 0))
    notes = unread_notes(run)
    assert notes == ([] if row_weights else [GIVE_WEIGHTS])


@dataclass(frozen=True, eq=False)
class TwoSteps(jdl.Learner):
    """A learner of one's own without `grads`."""

    learner: jdl.Learner
    has_grads = False

    @property
    def objective(self):
        return self.learner.objective

    def init(self, key, batch):
        return self.learner.init(key, batch)

    def step(self, state, batch):
        return self.learner.step(self.learner.step(state, batch)[0], batch)


def test_a_learner_without_grads_is_judged_by_its_data_and_its_objective():
    run = run_of(mlp())
    found = examine(train_on_one_batch(replace(run, learner=TwoSteps(run.learner)), STEPS))
    assert [one.check for one in found if one.verdict == "n/a"] == [
        *("gradient norms", "unused parameters"),
        *("training mode", "causality"),
    ]
    assert not [str(one) for one in found if one.verdict == "wrong" or "environment" in one.text]
