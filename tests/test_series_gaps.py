"""Forecasts of frames with categories and gaps: what is missing is said, and counts nowhere.

Seen to fail: a gap filled with the mean of all steps; an indicator by steps after the border; an
indicator of a column that is known early without its shift; a naive forecast from a gap; windows of
gaps alone; missing targets in the mask; NaN that only the mask takes out, whose gradient is NaN;
infinite numbers that are let through; numbers of columns that are counted after the drop.
"""

import jax
import numpy as np
import optax
import pandas as pd
import polars as pl
import pytest
from test_series import CONTEXT, CUT, HORIZON, HOURS, STEPS, frame

import jdl
from jdl.data import forecast_windows
from jdl.models.mlp import MLP
from jdl.objectives import forecast, forecast_quantiles
from jdl.types import Mean

NAMED = {**CUT, "target": "load", "future_covariates": ["ten"]}
GAPS = [3, 40, 41, 60, 75]  # the last is after the training split
WEATHER = ["rain", "sun", None, "sun"] * (STEPS // 4)


def with_gaps(**columns):
    """The frame, with steps of `load` that are missing."""
    given = frame(**columns)
    given.loc[given.index[GAPS], "load"] = np.nan
    return given


def test_gaps_are_the_mean_with_an_indicator_and_categories_are_one_hot():
    train, _, test = forecast_windows(with_gaps(weather=WEATHER), **NAMED)
    assert train.feature_names == (
        *("minus", "load", "ten", "load missing"),
        *("weather=rain", "weather=sun", "weather missing"),
    )
    time = np.arange(STEPS, dtype=np.float64)
    known = np.setdiff1d(np.arange(70), GAPS)
    assert (train.mean, train.std) == (np.mean(time[known]), np.std(time[known]))
    gap = np.isin(time, GAPS)
    load = np.where(gap, 0, (time - train.mean) / train.std).astype(np.float32)
    weather = [[value == w for value in ("rain", "sun", None)] for w in WEATHER]
    expected = np.concatenate([np.stack([load, gap], 1), weather], 1, dtype=np.float32)
    for part in (train, test):
        x = part.take(np.arange(len(part)))["x"]
        for row, now in zip(x, part.ids + part.source.start, strict=True):
            np.testing.assert_array_equal(row[:, [1, 3, 4, 5, 6]], expected[now - CONTEXT : now])


def test_categories_that_are_known_early_are_shifted_with_their_indicator():
    kinds = {"categorical": "kind", "future_covariates": ["kind", "ten"]}
    given = frame(kind=[1, None, 2, 1] * 25, ten=[np.nan, *range(99)])
    parts = (given, given.assign(kind=given["kind"].shift(-HORIZON), ten=given.ten.shift(-HORIZON)))
    early, shifted = (
        forecast_windows(part, **{**NAMED, **kinds, "future_covariates": known})[0]
        for part, known in zip(parts, (["kind", "ten"], []), strict=True)
    )
    names = ("kind=1", "kind=2", "kind missing")
    assert early.feature_names[-4:] == ("ten missing", *names)
    one, other = (
        part.take(np.arange(50))["x"][..., [part.feature_names.index(n) for n in names]]
        for part in (early, shifted)
    )
    np.testing.assert_array_equal(one, other)
    assert 0 < one[..., 2].mean() < 1


def test_text_is_what_a_table_makes_of_it():
    """Truth values and numbers where all are, and else categories; for pandas and Polars."""
    columns = {"flag": [True, False, None, True] * 25, "text": ["1.5", "?", "2", "3"] * 25}
    codes = pd.Categorical([3, 1] * 50)
    of_pandas = frame(**columns).reset_index(drop=True).assign(code=codes)
    codes = pl.Series(["3", "1"] * 50, dtype=pl.Categorical)
    of_polars = pl.DataFrame({**of_pandas, **columns, "code": codes})
    found = [
        forecast_windows(given, **NAMED, missing=["?"], drop="minus")[0]
        for given in (of_pandas, of_polars)
    ]
    assert found[0].feature_names == (
        *("load", "ten", "flag", "text", "flag missing", "text missing", "code=1", "code=3"),
    )
    assert found[0].fingerprint == found[1].fingerprint
    values = np.stack([np.arange(STEPS) % 3, np.arange(STEPS)], 1)
    of_array = forecast_windows(values, **{**CUT, "future_covariates": 0}, categorical=0)[0]
    assert of_array.feature_names == ("1", "0=0", "0=1", "0=2")


def test_numbers_are_those_of_the_table_whatever_is_dropped():
    numbers = {**CUT, "target": 1, "future_covariates": 2}
    dropped = forecast_windows(frame(), **numbers, drop=0)[0]
    assert (dropped.feature_names, dropped.source.target) == (("load", "ten"), 0)
    named = forecast_windows(frame(), **NAMED, drop="minus")[0]
    assert dropped.fingerprint == named.fingerprint


def test_the_naive_forecast_is_of_the_last_season_that_is_known():
    train, _, _ = forecast_windows(with_gaps(), **NAMED)
    columns = train.take(np.arange(len(train)))
    for naive, now in zip(columns["naive"], train.ids + train.source.start, strict=True):
        for time, value in zip(range(now, now + HORIZON), naive, strict=True):
            past = [t for t in range(now) if (time - t) % 3 == 0 and t not in GAPS]
            expected = (past[-1] - train.mean) / train.std if past else 0
            assert value == np.float32(expected)
    assert train.naive_error == 3.0


def test_windows_of_gaps_alone_are_left_out():
    given = frame()
    given.loc[given.index[20:30], "load"] = np.nan
    train, _, _ = forecast_windows(given, **NAMED)
    first = (train.ids + train.source.start).tolist()
    assert first == [t for t in range(CONTEXT, 70 - HORIZON + 1) if not 20 <= t <= 30 - HORIZON]


def test_gaps_and_categories_after_the_training_split_change_nothing_of_it():
    before, later = with_gaps(weather=WEATHER), with_gaps(weather=WEATHER)
    later.loc[later.index[70:], ["minus", "ten"]] = np.nan
    later.loc[later.index[70:], "weather"] = "hail"
    (one, *_), (other, *_) = (
        forecast_windows(given, **{**NAMED, "future_covariates": []}) for given in (before, later)
    )
    assert one.feature_names == other.feature_names
    rows = np.arange(len(one))
    jax.tree.map(np.testing.assert_array_equal, one.take(rows), other.take(rows))


OBJECTIVES = {
    "point": forecast(MLP(HORIZON, (4,)), 10.0, naive_error=2.0),
    "squared": forecast(MLP(HORIZON, (4,)), loss=optax.squared_error),
    "quantiles": forecast_quantiles(MLP(3 * HORIZON, (4,)), (0.1, 0.5, 0.9), 10.0, 2.0),
}


def gradients(objective, variables, batch):
    """The loss, its metrics and its gradients, as totals and counts."""

    def total(params):
        output = objective.loss({"params": params}, batch, jax.random.key(1), False)
        return output.loss.total, (output.loss, output.metrics)

    return jax.jit(jax.value_and_grad(total, has_aux=True))(variables["params"])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_missing_target_changes_nothing(name):
    """Of three rows, one whose targets are all missing is to the bit one that is masked."""
    rng, objective = np.random.default_rng(0), OBJECTIVES[name]
    x, y, naive = (rng.normal(size=(3, n)).astype(np.float32) for n in (6, HORIZON, HORIZON))
    batch = {"x": x, "y": y, "naive": naive, "mask": np.asarray([True] * 3)}
    variables = objective.init(jax.random.key(0), batch)
    gone = np.where([[False], [True], [False]], np.nan, y).astype(np.float32)
    found = gradients(objective, variables, {**batch, "y": gone})
    expected = gradients(objective, variables, {**batch, "mask": np.asarray([True, False, True])})
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert (found[1]["Dense_0"]["kernel"] != 0).any()


def test_a_missing_target_is_loud_in_a_metric_of_the_library():
    """As the docs say, and not in those of the objective; seen to fail with 0 for NaN."""
    objective = jdl.objectives.with_metrics(OBJECTIVES["point"], library=jdl.metrics.mae)
    batch = {"x": np.ones((3, 6), np.float32), "y": np.ones((3, HORIZON), np.float32)}
    batch["y"][1, 2] = np.nan
    variables = objective.init(jax.random.key(0), batch)
    metrics = gradients(objective, variables, batch)[0][1][1]
    assert np.isnan(metrics["library"].value())
    assert np.isfinite(metrics["mae"].value())


def test_targets_of_quantiles_may_have_a_last_axis():
    """To the bit, with a mask and a step that is missing; seen to fail with a mask (B, H, 1)."""
    rng, objective = np.random.default_rng(0), OBJECTIVES["quantiles"]
    x, y, naive = (rng.normal(size=(3, n)).astype(np.float32) for n in (6, HORIZON, HORIZON))
    y[1, 2] = np.nan
    batch = {"x": x, "y": y, "naive": naive, "mask": np.asarray([True, True, False])}
    variables = objective.init(jax.random.key(0), batch)
    deeper = {**batch, "y": y[..., None], "naive": naive[..., None]}
    objective.check(deeper, {})
    for other in (deeper, {**deeper, "naive": naive}):
        found, expected = (gradients(objective, variables, each) for each in (other, batch))
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_that_is_missing_counts_for_none(name):
    """Whatever the others are: all counts are smaller by one, and no number is NaN."""
    rng, objective = np.random.default_rng(0), OBJECTIVES[name]
    x, y = (rng.normal(size=(3, n)).astype(np.float32) for n in (6, HORIZON))
    variables = objective.init(jax.random.key(0), {"x": x, "y": y})
    gone = y.copy()
    gone[1, 2] = np.nan
    found, whole = (
        gradients(objective, variables, {"x": x, "y": targets, "naive": x[:, :HORIZON]})
        for targets in (gone, y)
    )
    means = jax.tree.leaves(found[0][1], is_leaf=lambda m: isinstance(m, Mean))
    others = jax.tree.leaves(whole[0][1], is_leaf=lambda m: isinstance(m, Mean))
    assert [m.count for m in means] == [m.count - 1 for m in others]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (frame(weather=WEATHER), {"target": "weather"}, "weather has categories, and a target"),
        (frame(minus=[np.nan] * 70 + [1] * 30), {}, r"minus has no value .* drop=\('minus',\)"),
        (frame(), {"drop": 1}, "Column load is the target and cannot be dropped"),
        (
            frame().to_numpy(),
            {**CUT, "target": 0, "drop": 0},
            "Column 0 is the target .* by target, or",
        ),
        (frame(), {"drop": "ten"}, "Column ten is a future covariate .* by future_covariates"),
        (frame(minus=[np.inf, *range(99)]), {}, r"infinite value, first in row 0: .*replace\("),
        (frame(day=HOURS.astype(str)), {}, r"Column day of the frame has dates.*drop=\('day',\)"),
        (frame(name=map(str, HOURS.hour * 100 + HOURS.day)), {"categorical": "nam"}, "no column"),
        (frame(name=[f"a{n}" for n in range(100)]), {}, r"Column name has 100 different values"),
        (pd.concat([frame(), frame()]), {}, "the rows of one series"),
    ],
)
def test_refusals_name_what_is_wrong(given, options, message):
    with pytest.raises(jdl.Error, match=message):
        forecast_windows(given, **{**NAMED, **options})
