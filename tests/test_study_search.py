"""What a study searches: values that are drawn or suggested, their importance, what is refused.

Seen to fail: draws that depend on the number of trials, equal draws counted as two trials, a
suggestion that replaces that of another process, an importance that counts stopped trials, NaN and
text among drawn values, `int | None` drawn as a fraction, other data in a study, shares of few
trials without a word.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tuned

import jdl
from jdl.study import Search, tune
from jdl.study.folder import open_study
from jdl.study.importance import draw_study, importance, importance_line, log_fields
from jdl.study.search import points
from jdl.study.space import parse_space
from jdl.study.suggest import store, stored, suggest

SCRIPT = Path(tuned.__file__)


def test_importance_is_that_of_the_field_on_which_the_score_depends(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    draws = np.random.default_rng(0).uniform(size=(24, 2))
    rows = [
        {"trial": n, "lr": 10 ** float(-4 * a), "width": [8] if b < 0.5 else [16], "same": 1}
        | {"seeds": 1, "status": "finished", "valid loss": abs(2 - 4 * float(a)) + 0.1 * float(b)}
        for n, (a, b) in enumerate(draws)
    ]
    shares = importance([*rows, {**rows[0], "status": "stopped", "valid loss": 99.0}], ["lr"])
    assert list(shares) == ["lr", "width"]
    assert shares["lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert importance(rows, ["lr"]) == shares
    assert importance_line(rows, shares).endswith("%")
    stopped = [*rows[:23], {**rows[0], "status": "stopped"}]
    assert "of 23 trials that is too few to say" in importance_line(stopped, shares)
    with pytest.raises(jdl.Error, match="and 7 finished"):
        importance(rows[:7])
    with pytest.raises(jdl.Error, match="of different values and scores"):
        importance([{**row, "valid loss": 1.0} for row in rows])
    drawn = []
    module = sys.modules[draw_study.__module__]  # jdl.study.importance is the function
    monkeypatch.setattr(module, "draw_parallel_coordinates", lambda *given: drawn.append(given))
    mixed = [*rows, {**rows[0], "status": "stopped", "valid loss": 99.0}]
    draw_study(mixed, True, ["lr"], shares, tmp_path / "figure.png")
    ((columns, scores, *_, title),) = drawn
    assert (len(columns["lr"]), max(scores) < 99) == (24, True)
    assert title == "24 trials that finished; 1 other left out"
    search = {"random": ["lr=loguniform(1e-4,1)", "b=uniform(0,1)"], "grid": ["w=1,10", "c=a,b"]}
    assert log_fields(search) == ["lr", "w"]


@pytest.mark.slow
def test_tpe_suggests_by_what_was_reached_and_asks_nothing_anew(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    space = parse_space(("hidden=8,16",), ("lr=loguniform(1e-4,1e-1)",), tuned.Config)
    tried = []
    for _ in range(30):  # as if the loss were that of the distance to 1e-2, for wide layers
        values = suggest(space, 0, "min", tried)
        assert values == suggest(space, 0, "min", tried)
        loss = abs(np.log10(float(values["lr"])) + 2) + (values["hidden"] == "8")
        tried.append((values, None if len(tried) == 3 else float(loss)))
    late = [values for values, _ in tried[20:]]
    assert np.mean([abs(np.log10(float(one["lr"])) + 2) for one in late]) < 0.5
    assert [one["hidden"] for one in late].count("16") > 6
    assert suggest(space, 1, "min", []) != suggest(space, 0, "min", [])
    search = Search(random=("lr=loguniform(1e-3,1e-1)",), sampler="tpe", trials=2, study=tmp_path)
    rows = tune(SCRIPT, search)
    assert json.loads((tmp_path / "suggestions" / "trial1.json").read_text()).keys() == {"lr"}
    monkeypatch.setattr("jdl.study.suggest._distributions", None)
    assert {row["lr"] for row in rows} == {row["lr"] for row in tune(SCRIPT, search)}
    assert store(tmp_path, 1, {"lr": "1"}) == stored(tmp_path, 1) != {"lr": "1"}


@pytest.mark.parametrize(
    ("missing", "message"), [("optuna", "'jdl.study.'"), ("torch", "pip install torch")]
)
def test_a_sampler_says_what_it_needs(tmp_path, monkeypatch, missing, message):
    monkeypatch.setattr("jdl.study.suggest.find_spec", lambda name: name != missing or None)
    search = Search(random=("lr=uniform(0,1)",), sampler="gp", trials=2, study=tmp_path / "study")
    with pytest.raises(jdl.Error, match=f"--sampler gp.* needs .*{message}"):
        tune(SCRIPT, search)
    assert not list(tmp_path.iterdir())


def test_a_gaussian_process_suggests_by_what_was_reached():
    pytest.importorskip("optuna")
    pytest.importorskip("torch")
    space = parse_space((), ("lr=loguniform(1e-4,1e-1)",), tuned.Config)
    tried = []
    for _ in range(16):
        values = suggest(space, 0, "min", tried, "gp")
        tried.append((values, abs(float(np.log10(float(values["lr"]))) + 2)))
    assert suggest(space, 0, "min", tried, "gp") == suggest(space, 0, "min", tried, "gp")
    assert np.mean([score for _, score in tried[11:]]) < 0.3


WRONG = [
    (Search(grid=("lr=1e-2",), maximize="test accuracy"), (), "never chooses by the test data"),
    (Search(grid=("lr=1e-2",), minimize="test/loss"), (), "never chooses by the test data"),
    (Search(grid=("lr=1e-2",)), ("--no-validates",), "Never by its test data"),
    (Search(grid=("lr=1e-2",), maximize="accurracy"), (), "no metric 'accurracy', but acc"),
    (Search(), (), "needs fields to search"),
    (Search(grid=("lrr=1e-2",)), (), "no field 'lrr': did you mean lr"),
    (Search(grid=("lr=1e-2,fast",)), (), "lr=fast does not fit: the field is of type float"),
    (Search(grid=("lr:1e-2",)), (), "--grid is written as --grid lr=1e-3,3e-3, not 'lr:1e-2'"),
    (Search(grid=("lr=1,1",)), (), "has a value twice"),
    (Search(grid=("lr=1", "lr=2")), (), "--grid has lr twice"),
    (Search(grid=("lr=1,nan",)), (), "lr=nan: a value must be finite"),
    (Search(random=("lr=choice(1,-inf)",), trials=2), (), "lr=-inf: a value must be finite"),
    (Search(grid=("lr=1e-2,0.01",)), (), "lr=1e-2,0.01 has a value twice"),
    (Search(grid=("lr=1",)), ("--name", "trial0"), "--name trial0 is the name of a study's own"),
    (Search(grid=("lr=1",)), ("--name", "failures"), "--name failures is the name of a study's"),
    (Search(grid=("seed=1,2",)), (), "seed is not searched: --seeds"),
    (Search(grid=("steps=0,8",)), (), "The config refuses steps 0: --steps must be 1 or more"),
    (Search(grid=("steps=4,8",), halving=2), (), "steps is not searched with --halving"),
    (Search(grid=("batch=4,16",), halving=2), ("--epochs", "1"), "different numbers of steps"),
    (Search(grid=("steps=4,8",)), ("--epochs", "1"), "steps is searched, but"),
    (Search(grid=("lr=1,2",), halving=2, first_rung=8), (), "is not before the last step"),
    (Search(grid=("lr=1,2",), trials=3), (), "The grid has 2 combinations, and --trials is 3"),
    (Search(random=("lr=uniform(0,1)",), sampler="sobol"), (), "say how many trials"),
    (Search(random=("lr=normal(0,1)",), trials=2), (), "lr=normal.0,1. is no distribution"),
    (Search(random=("lr=uniform(1,0)",), trials=2), (), "LOW must be a number and below"),
    (Search(random=("lr=loguniform(0,1)",), trials=2), (), "LOW must be a number above 0"),
    (Search(random=("batch=uniform(1,2.5)",), trials=2), (), "batch is a whole number"),
    (Search(random=("lr=choice(1,b)",), trials=2), (), "lr=b does not fit"),
    (Search(grid=("lr=1",), random=("lr=choice(1,2)",), trials=2), (), "both in --grid and in"),
    (Search(grid=("lr=1",)), ("--until", "4"), "A study takes no --until"),
    (Search(grid=("lr=1",)), ("--root", "elsewhere"), "A study takes no --root"),
]


@pytest.mark.parametrize(("search", "flags", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input_is_refused_before_anything_is_written(search, flags, message, tmp_path):
    with pytest.raises(jdl.Error, match=message):
        tune(SCRIPT, replace(search, study=tmp_path / "study"), flags)
    assert not list(tmp_path.iterdir())


DESCRIPTION = {
    "config": {"name": "net", "lr": 1},
    "code": {"a.py": "1"},
    "search": {"trials": 2, "halving": 0},
}
DESCRIPTION |= {"options": {"devices": None}, "data": {"train": "a1"}}


def test_another_study_in_the_folder_is_refused(tmp_path):
    open_study(tmp_path, DESCRIPTION)
    open_study(tmp_path, DESCRIPTION | {"search": {"trials": 3, "halving": 0}})
    for other in (
        {"config": {"name": "net", "lr": 2}},
        {"data": {"train": "b2"}},
        {"options": {"devices": 2}},
        {"search": {"trials": 3, "halving": 2}},
    ):
        with pytest.raises(jdl.Error, match="holds another study"):
            open_study(tmp_path, DESCRIPTION | other)
    halved = DESCRIPTION | {"search": {"trials": 2, "halving": 2}}
    open_study(tmp_path / "halved", halved)
    with pytest.raises(jdl.Error, match=r"trials: 2 there, 4 here.*with --halving no trials are"):
        open_study(tmp_path / "halved", halved | {"search": {"trials": 4, "halving": 2}})
    with pytest.raises(jdl.Error, match=r"code has changed since .* \(a.py: 1 there, 2 here\)"):
        open_study(tmp_path, DESCRIPTION | {"code": {"a.py": "2"}})


def values_of(trials, sampler="random", **fields):
    search = Search(trials=trials, sampler=sampler, **fields)
    return points(search, parse_space(search.grid, search.random, tuned.Config))


DRAWN = ("lr=loguniform(1e-4,1e-1)", "batch=uniform(16,64)", "hidden=choice(8,16 8)")


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_drawn_values_depend_on_seed_and_number_alone(sampler):
    few, many = (values_of(n, sampler, random=DRAWN, study_seed=3) for n in (5, 64))
    assert many[:5] == few
    assert few != values_of(5, sampler, random=DRAWN, study_seed=4)
    alone = values_of(64, sampler, random=DRAWN[:1], study_seed=3)
    if sampler == "random":
        assert [one["lr"] for one in alone] == [one["lr"] for one in many]
    rates = np.log10([float(one["lr"]) for one in many])
    assert -4 <= rates.min() < -3.8
    assert -1.2 < rates.max() <= -1
    assert np.mean(rates) == pytest.approx(-2.5, abs=0.3 if sampler == "random" else 0.05)
    assert {one["hidden"] for one in many} == {"8", "16 8"}
    assert all(16 <= int(one["batch"]) <= 64 for one in many)
    assert all(len(one["lr"].lstrip("0.").replace(".", "")) <= 8 for one in many)


def test_whole_numbers_are_drawn_with_both_ends():
    drawn = [int(one["batch"]) for one in values_of(300, random=("batch=uniform(2,4)",))]
    assert {n: drawn.count(n) > 70 for n in (2, 3, 4)} == dict.fromkeys((2, 3, 4), True)


def test_an_interval_is_of_the_kind_of_its_field():
    @dataclass(frozen=True)
    class Config(tuned.Config):
        depth: int | None = None
        activation: str = "relu"

    space = parse_space((), ("depth=uniform(1,5)",), Config)
    assert [space.random["depth"].at(share) for share in (0.0, 0.5, 0.99)] == ["1", "3", "5"]
    with pytest.raises(jdl.Error, match="depth is a whole number"):
        parse_space((), ("depth=uniform(1,2.5)",), Config)
    with pytest.raises(jdl.Error, match=r"a text, so write activation=choice\(A, B"):
        parse_space((), ("activation=uniform(0,1)",), Config)


def test_the_grid_has_all_combinations_and_comes_again_where_values_are_drawn():
    grid = ("lr=1,2", "hidden=8,16 8,4")
    found = [(one["lr"], one["hidden"]) for one in values_of(0, grid=grid)]
    assert found == [(lr, hidden) for lr in "12" for hidden in ("8", "16 8", "4")]
    drawn = values_of(12, grid=grid, random=("dropout=uniform(0,1)",))
    assert [(one["lr"], one["hidden"]) for one in drawn] == found * 2
    assert len({one["dropout"] for one in drawn}) == 12
