"""Forecasts: each value compared with plain loops; no split has anything of a later one.

Seen to fail: with the index of a frame not looked at, and the first column for any name; where a
constant is one whose computed deviation is 0, which that of 0.1 is not.
"""

import lzma
from dataclasses import replace
from itertools import pairwise

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest

import jdl
from jdl.data import electricity, forecast_windows, time_series
from jdl.data.fetch import fetch

STEPS, CONTEXT, HORIZON, SEASON = 100, 6, 5, 3
CUT = {
    "context": CONTEXT,
    "horizon": HORIZON,
    "season": SEASON,
    "target": 1,
    "future_covariates": (2,),
}


def table(steps=STEPS):
    """Three columns that tell the time: -t, t and 10 t."""
    time = np.arange(steps, dtype=np.float64)
    return np.stack([-time, time, 10 * time], axis=1)


def taken(part):
    """The columns of a split, with the target in its own unit, and the times to forecast from."""
    columns = part.take(np.arange(len(part)))
    y, naive = (columns[name] * part.std + part.mean for name in ("y", "naive"))
    return columns["x"], y.round(2), naive.round(2), part.ids + part.source.start


@pytest.mark.parametrize("season", [1, 3, 5, 12])
def test_every_row_is_what_loops_find(season):
    parts = forecast_windows(table(), **{**CUT, "season": season})
    mean, std = table()[:70].mean(0), table()[:70].std(0)
    for part in parts:
        for x, y, naive, now in zip(*taken(part), strict=True):
            past = np.arange(now - CONTEXT, now)
            expected = np.stack([-past, past, 10 * (past + HORIZON)], axis=1)
            np.testing.assert_allclose(x * std + mean, expected, atol=1e-3)
            assert y.tolist() == list(range(now, now + HORIZON))
            for time, value in zip(range(now, now + HORIZON), naive, strict=True):
                assert value == max(t for t in range(now) if (time - t) % season == 0)


def test_the_parts_follow_one_another_and_share_no_target():
    times = [taken(part)[3].tolist() for part in forecast_windows(table(), **CUT)]
    borders = [6, 70, 85, 100]  # the first forecast needs a context of 6
    assert times == [list(range(a, b - HORIZON + 1)) for a, b in pairwise(borders)]


@pytest.mark.parametrize(("known", "border"), [(0, 70), (1, 85)])
def test_a_part_is_the_same_whatever_comes_after_it(known, border):
    """To the bit, statistics included; and what comes before its end does change it."""
    later, before = table(), table()
    later[border:] = 7 * later[border:] ** 2
    before[border - 1] += 1
    expected, same, other = (forecast_windows(t, **CUT)[known] for t in (table(), later, before))
    rows = np.arange(len(expected))
    jax.tree.map(np.testing.assert_array_equal, expected.take(rows), same.take(rows))
    assert (expected.mean, expected.std) == (same.mean, same.std)
    assert (expected.take(rows)["y"] != other.take(rows)["y"]).any()
    assert (
        forecast_windows(later, **CUT)[2].take(rows[:3])["y"]
        != forecast_windows(table(), **CUT)[2].take(rows[:3])["y"]
    ).all()


def test_as_a_source_of_batches():
    train, valid, _ = forecast_windows(table(), **CUT)
    for first, second in zip(
        *([t.shuffled(8, 0)[i] for i in (0, 9)] for t in (train, train.streaming())), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, first, second)
    whole = train.source.take(np.arange(len(train.source)))
    assert train.source.nbytes == sum(column.nbytes for column in whole.values())
    assert {name: column.dtype for name, column in whole.items()} == dict.fromkeys(
        ("x", "y", "naive"), np.float32
    )
    for name, (least, greatest) in train.bounds.items():
        assert least <= whole[name].min() <= whole[name].max() <= greatest
    assert valid.labels == ()
    others = [
        {"context": 7},
        {"horizon": 4},
        {"season": 4},
        {"target": 0},
        {"future_covariates": ()},
    ]
    sources = [
        forecast_windows(table() + 1.0 * table() ** 2, **CUT),
        *(forecast_windows(table(), **{**CUT, **o}) for o in others),
    ]
    assert (
        len({train.fingerprint, valid.fingerprint, *(parts[0].fingerprint for parts in sources)})
        == 8
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": np.zeros(9)}, r"table of numbers \(T, F\)"),
        ({"table": np.full((9, 3), np.nan)}, "Column 0 has no value in the training split"),
        ({"table": table() * [0, 1, 1]}, "Column 0 is constant .* by `drop`"),
        ({"table": np.where([True, False, False], 0.1, table())}, "Column 0 is constant"),
        ({"table": table(20)}, "20 steps are too few: the splits would have 4, 0, 0 windows"),
        ({"context": 0}, "at least 1"),
        ({"season": 0}, "at least 1"),
        ({"season": 200}, "0, 0, 0 windows with a horizon of 5 steps"),
        ({"target": 3}, "columns 0 to 2, and no column 3"),
        ({"target": "load"}, "columns 0 to 2, and no column 'load'"),
        ({"future_covariates": (-1,)}, "columns 0 to 2"),
        ({"future_covariates": (1,)}, "cannot be known in advance"),
        ({"context": HORIZON - 1}, f"a context of at least {HORIZON}"),
        ({"train": 0.9, "valid": 0.1}, "leave some steps for the test"),
        ({"valid": 0.0}, "leave some steps for the test"),
    ],
)
def test_refusals_name_what_is_wrong(change, message):
    with pytest.raises(jdl.Error, match=message):
        forecast_windows(**{"table": table(), **CUT, **change})


HOURS = pd.date_range("2020-01-01", periods=STEPS, freq="h", tz="Europe/Paris")


def frame(index=HOURS, **columns):
    """The table as a frame, with other columns."""
    whole = pd.DataFrame(table(), index, ["minus", "load", "ten"])
    return whole.assign(**{name: list(column) for name, column in columns.items()})


@pytest.mark.parametrize(
    "given",
    [
        frame(),
        frame(pd.date_range("2000-01-31", periods=STEPS, freq="ME")),
        frame(pd.period_range("2000-01", periods=STEPS, freq="Q")),
        frame(pd.bdate_range("2020-01-01", periods=STEPS)),
        frame(pd.RangeIndex(STEPS)).convert_dtypes(),
        pl.DataFrame(table(), ["minus", "load", "ten"]),
    ],
    ids=["hours", "months", "quarters", "business days", "missing types", "Polars"],
)
def test_a_frame_is_its_table_and_names_are_numbers(given):
    named = {**CUT, "target": "load", "future_covariates": ["ten"]}
    for found, expected in zip(
        forecast_windows(given, **named), forecast_windows(table(), **CUT), strict=True
    ):
        assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (frame(HOURS[::-1]), r"must ascend, and row 1 .* not after row 0 .*sort_index"),
        (frame(HOURS.insert(5, HOURS[4])[:-1]), r"must ascend, and row 5"),
        (frame(HOURS.delete(7).append(HOURS[-1:] + HOURS.freq)), "2:00:00 after row 6"),
        (frame(time=HOURS), r"Column time of .*set_index\('time'\)"),
        (frame(minus=[1] * 100), "Column minus is constant"),
        (frame().rename(columns={"minus": "ten"}), "the same name"),
        (frame().rename(columns={"load": "demand"}), "no column 'load', but minus, demand, ten"),
    ],
)
def test_frames_that_are_no_series_are_refused(given, message):
    with pytest.raises(jdl.Error, match=message):
        forecast_windows(given, **{**CUT, "target": "load"})


def test_electricity_is_read_where_it_lies(tmp_path, monkeypatch):
    """Half-hours of a made-up year, in the published file's layout; a pickle is never loaded."""
    t = np.arange(17_520)
    demand, temperature, day = np.sin(t) + 5, t / 100, t // 48 % 2
    content = bytearray(280_650 + 280_320)
    content[200 : 200 + 280_320] = np.stack([demand, temperature]).astype("<f8").tobytes()
    content[280_650:] = np.stack([t, day]).astype("<i8").tobytes()
    (tmp_path / "elecdemand.pkl.compress").write_bytes(lzma.compress(content, preset=0))
    monkeypatch.setattr(time_series, "dataset_folder", {"elecdemand": tmp_path}.__getitem__)
    parts = electricity(context=100)
    assert [len(part) for part in parts] == [11_881, 2_581, 2_581]
    assert parts[0].mean == pytest.approx(demand[:12_264].mean())
    x, y, naive, now = taken(parts[1])
    np.testing.assert_allclose(y[5], demand[now[5] : now[5] + 48], atol=0.006)
    np.testing.assert_allclose(naive[5], demand[now[5] - 336 : now[5] - 288], atol=0.006)
    assert x.shape[1:] == (100, 7)
    past = np.arange(now[5] - 100, now[5])
    for column, expected in enumerate([demand[past], temperature[past], day[past + 48]]):
        assert np.corrcoef(x[5, :, column], expected)[0, 1] > 0.9999
    for column, angle in ((3, past / 48), (5, past / 336 + 1 / 7)):
        assert np.corrcoef(x[5, :, column], np.sin(2 * np.pi * angle))[0, 1] > 0.9999
        assert np.corrcoef(x[5, :, column + 1], np.cos(2 * np.pi * angle))[0, 1] > 0.9999


@pytest.mark.slow
def test_the_real_electricity_is_as_the_docs_say():
    """By the network, once. A day before, the naive forecast would be worse than a week before."""
    fetch("elecdemand")
    parts = electricity()
    assert [len(part) for part in parts] == [11_881, 2_581, 2_581]
    source = parts[2].source
    for season, error in ((336, 0.323), (48, 0.330)):
        columns = replace(source, season=season, context=336).take(parts[2].ids)
        assert np.abs(columns["y"] - columns["naive"]).mean() * source.std == pytest.approx(
            error, abs=5e-4
        )
