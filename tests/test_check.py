"""Sanity checks before training: each planted fault is found, and sound models raise no alarm.

Seen to fail: with other rows, later tokens, columns and labels that were left as they are; with an
evaluation in training mode; with ReLUs and parameters without a gradient not looked for; with a
schedule that is not held, and updates that are not scaled; with the tenth state where no update
was made yet, only the first held-out batch, features of many values, a clip and labels (B, 1) left
out, an early `stop_gradient` called a fault, and exceptions of a model let through; an objective
that draws in evaluation called a fault, or none where it is supervised; a
label copied into the data, and separated blobs, that are told as one; a first loss that is called
wrong though the training gets over it; a DQN that is judged before it learns.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_table import ROWS, TABLE, UNSUPERVISED

import jdl
from jdl.figures.learning_rate import loss_limits
from jdl.inspect.learning_rate import (
    LARGEST,
    LearningRates,
    find_learning_rate,
    hold_schedule,
    scaled_step,
)
from jdl.inspect.sanity import sanity_check
from jdl.inspect.sanity.columns import check_columns, check_features
from jdl.inspect.sanity.labels import (
    check_label_leakage,
    check_labels,
    check_shuffled_labels,
)
from jdl.inspect.sanity.report import CHECKS, examine
from jdl.inspect.sanity.rows import (
    check_future,
    check_labels_in_inputs,
    check_padding,
    check_repeats,
    check_rows,
)
from jdl.inspect.sanity.subject import train_on_one_batch
from jdl.inspect.sanity.training import (
    check_activations,
    check_first_loss,
    check_gradients,
    check_overfit,
    check_parameters,
    check_relus,
)
from jdl.models.actor_critic import ActorCritic
from jdl.models.mlp import MLP
from jdl.objectives import classify, classify_binary, focal_loss, next_token, regress
from jdl.objectives.classification import Classification

STEPS = 30
ENDS = (10.0, LARGEST)  # factors at which a range test ends
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
    width: int = 32

    @nn.compact
    def __call__(self, x):
        def dense(features):
            kernel = nn.initializers.variance_scaling(self.scale, "fan_in", "normal")
            bias = nn.initializers.constant(self.bias)
            return nn.Dense(features, kernel_init=kernel, bias_init=bias)

        if self.unused:
            self.param("unused", nn.initializers.ones, (3,))
        x = self.activation(dense(self.width)(x))
        x = self.activation(dense(self.width)(self.fault(x)))
        last = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
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


def warmup(count):
    """A rate that is tiny in the first steps, and 1e-2 in the middle of a run."""
    return 1e-2 * jnp.minimum(count.astype(jnp.float32) / 500, 1) ** 3


ACCUMULATED = optax.MultiSteps(optax.adam(warmup), 16).gradient_transformation()
INJECTED = optax.inject_hyperparams(optax.adam)(learning_rate=warmup)


def by_class():
    """A run whose test data are sorted by class, and are several batches."""
    train, test = table().split(0.5, 0.5)
    order = np.argsort(np.asarray(test.take(np.arange(128))["y"]))
    rows = {name: np.asarray(column) for name, column in test.take(order).items() if name != "id"}
    return replace(run_of(mlp(), train), test=jdl.data.arrays(**rows).batches(32))


NO_ALARMS = [  # what is as it should be: a run, the check, and what it must say
    (
        "gradient accumulation",
        lambda: run_of(classify(Net(zero=True)), optimizer=ACCUMULATED),
        check_parameters,
        "ok",
    ),
    (
        "LayerScale",
        lambda: run_of(classify(LayerScale()), optimizer=optax.adam(warmup)),
        check_gradients,
        "ok",
    ),
    (
        "LayerScale, with an injected rate",
        lambda: run_of(classify(LayerScale()), optimizer=INJECTED),
        check_gradients,
        "ok",
    ),
    (
        "a long warmup",
        lambda: run_of(classify(Net()), optimizer=optax.adam(optax.linear_schedule(0, 0.1, 9_000))),
        check_overfit,
        "ok",
    ),
    (
        "a focal loss, which is small",
        lambda: run_of(mlp(loss=focal_loss())),
        check_shuffled_labels,
        "n/a",
    ),
    (
        "two classes",
        lambda: run_of(
            classify_binary(MLP(1, (16,))), table(y=(X[:, 0] > X[:, 1]).astype(np.int32))
        ),
        check_shuffled_labels,
        "ok",
    ),
    ("test data sorted by class", by_class, check_shuffled_labels, "ok"),
    (
        "a length that a baseline does not read",
        lambda: run_of(mlp(), table(length=1 + np.arange(256, dtype=np.int32) % 7)),
        check_columns,
        "note",
    ),
    (
        "clipped numbers",
        lambda: run_of(
            classify(Net(lambda x: jnp.clip(x - 50.0, jnp.float32(0), jnp.float32(1)), nn.tanh))
        ),
        check_relus,
        "n/a",
    ),
    (
        "a line without noise",
        lambda: run_of(regress(MLP(1, (16,))), table(x=X[:, :1], y=2 * X[:, :1])),
        check_label_leakage,
        "n/a",
    ),
]
REFUSED = [  # what no training begins with
    ("BatchNorm in training mode", lambda: run_of(classify(Normalized())), "batch_stats"),
    ("dropout in training mode", lambda: run_of(classify(Noisy())), "dropout"),
    ("labels out of range", lambda: run_of(mlp(), table(y=Y + 1)), "labels"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found(fault):
    found = fault.check(train_on_one_batch(fault.run(), STEPS))
    assert found.verdict == fault.verdict, found
    assert fault.says in str(found)


@pytest.mark.parametrize(("run", "says"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_cannot_be_evaluated_is_one_finding(run, says):
    report = sanity_check(run(), STEPS)
    (found,) = report.wrong
    assert found.check == "parts fit"
    assert says in found.text
    assert not report.sound


def test_a_nan_ends_the_checks_with_where_it_comes_from():
    run = run_of(classify(Net(lambda x: jnp.log(x - 1e3))))
    found = examine(train_on_one_batch(run, STEPS))
    assert [one.verdict for one in found] == ["wrong", "wrong", "ok", "n/a"]
    assert "The output of Dense_1 (Dense) is the first that is not finite" in str(found[1])


class Category(nn.Module):
    """A model that reads the first number as a category."""

    @nn.compact
    def __call__(self, x):
        code = nn.Embed(3, 8)(x[:, 0].astype(jnp.int32))
        return MLP(CLASSES, (16,))(jnp.concatenate([x[:, 1:], code], -1))


def test_a_category_is_a_feature_that_is_read():
    x = np.concatenate([np.arange(256)[:, None] % 3, X[:, 1:]], 1).astype(np.float32)
    found = check_features(train_on_one_batch(run_of(classify(Category()), table(x=x)), STEPS))
    assert found.verdict == "ok", found


@pytest.mark.parametrize(
    ("run", "check", "verdict"), [row[1:] for row in NO_ALARMS], ids=[row[0] for row in NO_ALARMS]
)
def test_what_is_as_it_should_be_raises_no_alarm(run, check, verdict):
    found = check(train_on_one_batch(run(), STEPS))
    assert found.verdict == verdict, found


def test_an_exception_of_the_model_is_a_finding_with_its_line():
    """At the start, and where only what a check makes of the batch raises it."""
    (found,) = sanity_check(run_of(classify(Net(lambda x: x @ x))), STEPS).findings
    assert (found.check, found.verdict) == ("parts fit", "wrong")
    assert "TypeError: dot_general" in found.text
    assert "test_check.py, line" in found.text
    run = replace(run_of(classify(Net(lambda x: x.reshape(32, -1)))), test=None)
    notes = [one for one in examine(train_on_one_batch(run, STEPS)) if one.verdict == "note"]
    assert [one.check for one in notes] == ["padding masked"]
    assert '"/Dense_1"' in notes[0].text


@pytest.mark.slow
def test_one_row_has_no_other_rows_to_compare_with():
    cases = (
        (classify(MLP(CLASSES, (4,))), table(), (check_columns, check_labels_in_inputs)),
        (next_token(Language(False)), texts(), (check_future,)),
    )
    for objective, data, checks in cases:
        learner = jdl.descent(objective, optax.adam(1e-2))
        run = jdl.Run(jdl.Config(name="one"), learner, data.shuffled(1, 0), test=data.batches(1))
        subject = train_on_one_batch(run, 2)
        assert [check(subject).verdict for check in checks] == ["n/a"] * len(checks)


SOUND = ("cnn-norm", "lstm", "gpt", "vae", "gin")


def of_table(row):
    """A run of a row of the table of models."""
    data = {name: np.asarray(column) for name, column in row.batch().items() if name != "mask"}
    loader = jdl.data.arrays(**data).batches(ROWS)
    learner = row.wrap(jdl.descent(row.objective(row.model), optax.adamw(row.rate)))
    return jdl.Run(jdl.Config(name=row.name), learner, loader, test=loader)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [row for row in TABLE + UNSUPERVISED if row.name in SOUND], ids=lambda row: row.name
)
def test_a_sound_model_raises_no_alarm(row):
    found = examine(train_on_one_batch(of_table(row), STEPS))
    assert not [str(one) for one in found if one.verdict == "wrong"]
    assert sum(one.verdict == "ok" for one in found) >= 6


@pytest.mark.slow
def test_the_report_shows_all_and_changes_nothing(tmp_path, monkeypatch):
    """Dropout, which is on in training alone, raises no alarm."""
    monkeypatch.chdir(tmp_path)
    run = run_of(classify(MLP(CLASSES, (16,), dropout=0.1)))
    report = sanity_check(run, STEPS)
    assert report.sound, report
    dense = next(layer for layer in report.layers if layer.name == "Dense_0")
    assert (dense.output, dense.size.numbers) == ("float32[32,16]", 16 * FEATURES + 16)
    assert dense.size.operations == 2 * 16 * FEATURES
    text = str(report)
    assert "chance gives log 4 = 1.386" in text
    assert "checked: nothing is wrong" in text
    assert 0 < report.gradients[0].update_ratio < 1
    verdicts = {one.check: one.verdict for one in report.findings}
    assert [*verdicts] == [*CHECKS, "data loading"]
    names = ("shuffled labels", "deterministic", "padding masked")
    assert {verdicts[name] for name in names} == {"ok"}
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_other_learners_are_told_what_does_not_apply():
    row = next(row for row in UNSUPERVISED if row.name == "gan")
    subject = train_on_one_batch(of_table(row), STEPS)
    assert check_overfit(subject).verdict == "ok"
    assert check_parameters(subject).verdict == "note"  # the last bias of a Wasserstein critic
    assert check_padding(subject).verdict == "ok"
    assert check_rows(subject).verdict == "n/a"


@pytest.mark.slow
def test_reinforcement_learning_is_told_what_does_not_apply():
    options = {"num_steps": 8, "update_epochs": 1, "num_minibatches": 2}
    policy = ActorCritic(2, hidden=(8,))
    learner = jdl.ppo(jdl.environments.cartpole(), policy, optax.adam(1e-3), **options)
    episodes = jdl.data.episodes(4)
    run = jdl.Run(jdl.Config(name="ppo"), learner, episodes, test=episodes, best="max return")
    report = sanity_check(run, STEPS)
    assert report.sound, report
    assert {one.check: one.verdict for one in report.findings}.pop("overfit one batch") == "ok"
    assert "the parameters change and stay finite" in str(report)


@pytest.mark.parametrize(
    ("learning_starts", "verdict", "text"),
    [(12, "ok", "the parameters change"), (29, "n/a", "learns from step 29")],
)
def test_a_replay_buffer_is_filled_before_the_verdict(monkeypatch, learning_starts, verdict, text):
    """The loss is NaN by design before, in DQN and SAC."""
    monkeypatch.setattr("jdl.inspect.sanity.subject.RL_WAIT", 20)
    sizes = {"num_steps": 1, "buffer_size": 16, "batch_size": 4, "learning_starts": learning_starts}
    environment = jdl.environments.catch(2, 3)
    learner = jdl.dqn(environment, MLP(3), optax.adam(1e-3), lambda step: 0.1, **sizes)
    config = jdl.Config(name="dqn", steps=10_000)
    run = jdl.Run(config, jdl.population(learner, (0, 1)), jdl.data.episodes(2))
    found = check_overfit(train_on_one_batch(run, STEPS))
    assert (found.verdict, text in found.text) == (verdict, True), found


def test_a_scaled_step_is_one_at_that_rate():
    """To a rounding; of a schedule, at the rate of the step at which it is held."""
    rate = 0.02
    schedule = optax.linear_schedule(0.0, rate, 10)
    slow, quick = (
        run_of(mlp(), optimizer=optimizer).learner
        for optimizer in (optax.adamw(schedule), optax.adamw(3 * rate))
    )
    batch = run_of(mlp()).train[0]
    start = slow.init(jax.random.key(0), batch)
    held = hold_schedule(start, 10)
    scaled, _ = jax.jit(scaled_step, static_argnums=0)(slow, held, batch, jnp.float32(3))
    reference, _ = jax.jit(quick.step)(quick.init(jax.random.key(0), batch), batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        scaled.params,
        reference.params,
    )


@pytest.mark.slow
def test_the_range_test_finds_a_rate_that_learns(tmp_path):
    """Of a run whose own rate is too small by two orders of magnitude, with a warmup."""
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 1e-4, 100, 1_000))
    run = run_of(mlp(), optimizer=optimizer)
    found = find_learning_rate(run, 60)
    assert found.held_at in range(90, 130)  # the end of the warmup
    assert 1e-4 < 1e-4 * found.suggestion < 1e-1
    found.draw(tmp_path / "check" / "rates.png")
    assert (tmp_path / "check" / "rates.png").stat().st_size > 10_000
    learned = run_of(mlp(), optimizer=optax.adam(1e-4 * found.suggestion))
    losses = [train_on_one_batch(one, 100).losses[-1] for one in (run, learned)]
    assert losses[1] < 0.5 * losses[0]


@pytest.mark.slow
def test_the_range_test_is_refused_where_the_loss_says_nothing():
    row = next(row for row in UNSUPERVISED if row.name == "gan")
    with pytest.raises(jdl.Error, match="does not measure progress"):
        find_learning_rate(of_table(row), 20)
    with pytest.raises(jdl.Error, match="--check-steps"):
        find_learning_rate(of_table(row), 1)
    with pytest.raises(jdl.Error, match="names the metric"):
        find_learning_rate(replace(of_table(row), best="max beauty"), 20)


def test_a_loss_that_falls_until_a_nan_is_not_told_to_take_a_larger_rate():
    told = [
        str(LearningRates([1.0, f], [2.0, 1.0], [2.0, 1.0], 1.0, None, None, 1.0)) for f in ENDS
    ]
    assert ["a larger rate" in text for text in told] == [False, True]
    assert "no longer finite" in told[0]


@pytest.mark.slow
def test_the_axis_of_the_losses_holds_negative_ones():
    assert loss_limits([2.0, 1.0, 9.0]) == (0.0, 3.0)
    assert loss_limits([-3.0, -5.0]) == (-5.0, -2.0)
