"""Sanity checks before training: each planted fault is found, and sound models raise no alarm.

Seen to fail: with other rows, later tokens, columns and labels that were left as they are; with an
evaluation in training mode; with ReLUs and parameters without a gradient not looked for; with the
tenth state where no update was made yet, only the first held-out batch, features of many values, a
clip and labels (B, 1) left out, an early `stop_gradient` called a fault, and exceptions of a model
let through; an objective that draws in evaluation called a fault, or none where it is supervised; a
label copied into the data, and separated blobs, that are told as one; a first loss that is called
wrong though the training gets over it; a DQN that is judged before it learns.
"""

from dataclasses import replace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_table import TABLE
from planted_faults import (
    CLASSES,
    FAULTS,
    FEATURES,
    STEPS,
    Language,
    LayerScale,
    Net,
    Noisy,
    Normalized,
    X,
    Y,
    mlp,
    of_table,
    run_of,
    table,
    texts,
)
from unsupervised_table import UNSUPERVISED

import jdl
from jdl.inspect.sanity import sanity_check
from jdl.inspect.sanity.columns import check_columns, check_features
from jdl.inspect.sanity.labels import (
    check_label_leakage,
    check_shuffled_labels,
)
from jdl.inspect.sanity.report import CHECKS, examine
from jdl.inspect.sanity.rows import (
    check_future,
    check_labels_in_inputs,
    check_padding,
    check_rows,
)
from jdl.inspect.sanity.subject import train_on_one_batch
from jdl.inspect.sanity.training import (
    check_gradients,
    check_overfit,
    check_parameters,
    check_relus,
)
from jdl.models.actor_critic import ActorCritic
from jdl.models.mlp import MLP
from jdl.objectives import classify, classify_binary, focal_loss, next_token, regress


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
    assert "causality (no causal language model)" in text  # all that do not apply, in one line
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
