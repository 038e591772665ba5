"""Deep SVDD by its formula, and days of electricity demand with anomalies put in.

Seen to fail: a center of all rows, padding included, one that moves, one not moved from 0; biases
that are let in; distances that are no squares; a spike in every row; days of the test without a
margin to the training; shifts of less than 3 hours; anomalies in the training; draws that depend on
the rate.
"""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.models.mlp import MLP
from jdl.objectives import deep_svdd

X = 0.3 * jax.random.normal(jax.random.key(0), (6, 5))
MASK = jnp.asarray([True, True, False, True, True, False])
BATCH = {"x": X, "mask": MASK}
source = import_module("jdl.data.electricity_anomalies")  # the function has the module's name
STEPS = 20 * 336  # four times five weeks


def test_the_loss_is_the_distance_from_a_center_that_stays():
    """The center is the mean of the fresh model's outputs for real rows, away from 0."""
    objective = deep_svdd(MLP(16, use_bias=False))
    learner = jdl.descent(objective, optax.sgd(0.1))
    state = jax.jit(learner.init)(jax.random.key(1), BATCH)
    out = np.asarray(X @ state.params["Dense_0"]["kernel"])[np.asarray(MASK)]
    mean = out.mean(0)
    assert 0 < (np.abs(mean) < 0.1).sum() < 16
    center = np.where(np.abs(mean) < 0.1, np.copysign(0.1, mean), mean)
    np.testing.assert_allclose(state.model_state["center"]["value"], center, rtol=1e-5)
    expected = np.square(out - center).sum(1)
    new, metrics = jax.jit(learner.step)(state, BATCH)
    assert float(metrics["loss"].value()) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(metrics["distance"].value()) == pytest.approx(expected.mean(), rel=1e-5)
    jax.tree.map(np.testing.assert_array_equal, new.model_state, state.model_state)
    variables = {"params": state.params, **state.model_state}
    made = jax.jit(objective.predict)(variables, BATCH)
    np.testing.assert_allclose(np.asarray(made["distance"])[np.asarray(MASK)], expected, rtol=1e-4)
    given = deep_svdd(MLP(3, use_bias=False), (1.0, 2.0, 3.0))
    begun = jax.eval_shape(given.init, jax.random.key(1), BATCH)
    assert begun["center"]["value"].shape == (3,)
    np.testing.assert_array_equal(
        jax.jit(given.init)(jax.random.key(1), BATCH)["center"]["value"], [1, 2, 3]
    )


REFUSED = {
    "bias": (lambda: deep_svdd(MLP(3)).check(BATCH, {}), "than 0 for a row of zeros"),
    "zeros": (lambda: deep_svdd(MLP(3, use_bias=False), (0.0, 0.0)), "center of zeros"),
    "nan": (lambda: deep_svdd(MLP(3, use_bias=False), (float("nan"),)), "finite"),
    "size": (
        lambda: deep_svdd(MLP(3, use_bias=False), (1.0, 0.0)).check(BATCH, {}),
        r"needs outputs \(B, 2\), and the model's are \(6, 3\)",
    ),
    "rate": (lambda: jdl.data.electricity_anomalies(rate=1.0), "between 0 and 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_what_is_wrong(case):
    make, message = REFUSED[case]
    with pytest.raises(jdl.Error, match=message):
        make()


@pytest.fixture(scope="module")
def series():
    """Demand that tells its step, and a calendar that is zero, but for a trace of noise."""
    table = np.zeros((STEPS, 7))
    table[:, 0] = np.arange(STEPS) / 10
    table[:, 2:5] = np.arange(STEPS)[:, None] % 48
    return table


@pytest.fixture(scope="module")
def parts(series):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "electricity_table", series.copy)
        yield jdl.data.electricity_anomalies(0.5, seed=3)


def starts_of(part):
    """The calendar's first value says at which half-hour of the day a row begins."""
    return part.columns["x"][:, 0, 1]


def demand_of(series, part):
    """The demand of all rows in its own unit (N, 48), and the first step of each."""
    held_out = np.arange(STEPS) // 336 % 5 == 4
    known = series[~held_out, 0]
    day = part.columns["x"][..., 0] * np.std(known) + np.mean(known)
    return day * 10


def test_training_days_are_as_measured_and_share_no_step_with_the_test(series, parts):
    train, test = parts
    assert not train.columns["y"].any()
    days = demand_of(series, train).round().astype(int)
    np.testing.assert_array_equal(days - days[:, :1], np.arange(48)[None].repeat(len(days), 0))
    assert not (days // 336 % 5 == 4).any()
    assert len(train) == 4 * (4 * 336 - 47)
    clean = test.columns["kind"] == 0
    days = demand_of(series, test)[clean].round().astype(int)
    assert (days // 336 % 5 == 4).all()
    assert len(test) == 4 * (336 - 47 - 2 * 12)


def test_each_anomaly_is_as_the_docs_say(series, parts):
    """About half of the rows have one, each kind a quarter of these."""
    test = parts[1]
    kind, days = test.columns["kind"], demand_of(series, test)
    np.testing.assert_array_equal(test.columns["y"], kind > 0)
    counts = np.bincount(kind, minlength=5)
    assert counts[0] / len(test) == pytest.approx(0.5, abs=0.05)
    assert (np.abs(counts[1:] / (len(test) / 8) - 1) < 0.3).all()
    first = test.source.columns["x"][:, 0, 1][test.ids]
    steps = np.arange(48)
    spikes = days[kind == 1] - np.median(days[kind == 1] - steps, 1)[:, None] - steps
    assert ((np.abs(spikes) > 1).sum(1) == 1).all()
    size = np.abs(spikes).max(1) / 10
    assert (0.69 < size.min() < 0.8) & (1.4 < size.max() < 1.51)
    still = (np.abs(np.diff(days[kind == 2])) < 1e-2).sum(1) + 1
    assert (still.min(), still.max()) == (8, 16)
    shift = (days[kind == 3][:, 0].round().astype(int) - first[kind == 3].astype(int)) % 48
    shift = np.where(shift > 24, shift - 48, shift)
    assert set(np.abs(shift).tolist()) == set(range(6, 13))
    assert {-1, 1} == set(np.sign(shift).tolist())
    factor = np.diff(days[kind == 4]).mean(1)
    small = factor[factor < 1]
    assert 0.4 <= small.min() < small.max() <= 0.61
    assert 1.59 <= factor[factor >= 1].min() < factor.max() <= 2.51


def test_an_anomaly_is_a_function_of_seed_and_row(series, parts, monkeypatch):
    """To the bit, whatever the rate of the others; of another seed it is another.

    The first kinds are as they were once drawn, on any machine.
    """
    monkeypatch.setattr(source, "electricity_table", series.copy)
    same, fewer, other = (
        jdl.data.electricity_anomalies(rate, seed)[1]
        for rate, seed in ((0.5, 3), (0.1, 3), (0.5, 4))
    )
    test = parts[1]
    assert same.fingerprint == test.fingerprint != other.fingerprint
    assert test.columns["kind"][:16].tolist() == [0, 0, 0, 4, 0, 3, 4, 4, 3, 0, 0, 0, 3, 0, 2, 0]
    rows = np.flatnonzero(fewer.columns["y"])
    assert len(rows) > 20
    np.testing.assert_array_equal(fewer.columns["x"][rows], test.columns["x"][rows])
