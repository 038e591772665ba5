"""Studies: a trial is the run alone, to the bit; what was killed goes on.

Seen to fail: a trial of another seed, a choice by the test data, a run that another process trains
counted as failed, the score of a rung by another filter, a failure shown for a run that another
process finished, a script that raises under --epochs ending the study, runs named as a study's own
files, brackets of the wrong rungs, "Best:" for a trial that was stopped, a trial that has the
numbers of the first, checkpoints as often as in a run alone, trials that are ranked by different
validation data, a log that is missing called not finite, stopped trials among the lines of a
figure, other numbers in the loop of several steps a call.
"""

import json
import os
import re
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import kitchen_sink
import numpy as np
import pytest
import tuned
from harness import lines

import jdl
from jdl.cli.study import _print as print_rows
from jdl.cli.study import study
from jdl.inspect.compare import compare
from jdl.report import report
from jdl.store.folder import DiskError, write_json_lines
from jdl.store.lock import hold_lock
from jdl.store.step_trace import read_leaves
from jdl.study import Search, trials, tune
from jdl.study.folder import read_table, score, write_failure
from jdl.study.hyperband import bracket_sizes, brackets, most_rungs
from jdl.study.tune import _rungs
from jdl.train import experiment
from jdl.train.preemption import PausedError

SCRIPT = Path(tuned.__file__)
SEEDS = Search(grid=("lr=3e-2",), seeds=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The table of a small study, and its folder."""
    folder = tmp_path_factory.mktemp("study")
    return tune(SCRIPT, replace(SEEDS, study=folder)), folder


@pytest.fixture
def killed(monkeypatch):
    """Kills a study in its second run, once its step 3 is saved, and starts it again."""

    class Killed(BaseException):
        pass

    calls, fit = [], trials.fit

    def fit_until(run, options, script):
        calls.append(run.config)
        if len(calls) != 2:
            return fit(run, options, script)
        with pytest.raises(PausedError):
            fit(run, replace(options, until=3), script)
        raise Killed

    def killed_study(*arguments):
        monkeypatch.setattr(trials, "fit", fit_until)
        with pytest.raises(Killed):
            tune(*arguments)
        return tune(*arguments)

    return killed_study


def alone(root, *flags, script=SCRIPT):
    """The folder of a run that `jdl train` trains."""
    try:
        argv = ["--root", str(root), "--quiet", *flags]
        return experiment.train(script, argv, "jdl train").folder
    except PausedError:
        return next(root.glob("*/*/seed*"))


def same(a, b):
    """Whether two runs have the same bits: metrics, every step, and the states that were saved."""
    comparison = compare(Path(a), Path(b))
    assert " 0 compared" not in str(comparison.lines)
    return comparison.first_difference is None and lines(Path(a)) == lines(Path(b))


def without_place(rows):
    return [{**row, "folder": Path(row["folder"]).name} for row in rows]


@pytest.mark.slow
def test_a_trial_has_the_bits_of_the_run_alone(whole, tmp_path):
    (row,), folder = whole
    run = alone(tmp_path, "--lr", "3e-2", "--seed", "1")
    assert same(folder / "trial0" / "seed1", run)
    assert not same(folder / "trial0" / "seed0", run)
    scores = [json.loads(lines(folder / "trial0" / f"seed{n}")[-2]) for n in (0, 1)]
    assert row["valid loss"] == pytest.approx(np.mean([line["loss"] for line in scores]))
    assert {line["split"] for line in scores} == {"valid"}
    assert len(read_leaves(run)) > len(read_leaves(folder / "trial0" / "seed1"))


SHARING = [  # a script, flags, and the steps that are saved
    (kitchen_sink, ("--steps", "12", "--eval-every", "6", "--save-every", "5"), {0, 5, 10, 12}),
    (tuned, ("--steps-per-call", "3", "--save-every", "5"), {0, 5, 8}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flags", "saved"), SHARING, ids=["single steps", "several a call"]
)
def test_trials_of_other_rates_have_the_bits_of_runs_alone(script, flags, saved, tmp_path):
    lines_of, path = [], Path(script.__file__)
    search = Search(grid=("lr=1e-2,3e-3",), seeds=2, study=tmp_path / "study")
    tune(path, search, flags, lines_of.append)
    assert re.fullmatch(r"Compiled \d programs, used 1\d times again", lines_of[-1])
    run = alone(tmp_path, *flags, "--lr", "3e-3", "--seed", "1", script=path)
    assert same(tmp_path / "study" / "trial1" / "seed1", run)
    assert {line["step"] for line in read_leaves(run)} >= saved


def test_the_command_prints_the_table_and_what_the_best_reaches_on_test_data(whole, capsys):
    (row,), folder = whole
    study([str(SCRIPT), "--grid", "lr=3e-2", "--seeds", "2", "--study", str(folder)])
    out = capsys.readouterr().out
    assert f"{row['valid loss']:.4f}" in out
    assert f"Best: trial 0, {folder}/trial0/seed0" in out
    scores = [json.loads(lines(folder / "trial0" / f"seed{n}")[-1]) for n in (0, 1)]
    assert f"nothing was chosen: {np.mean([line['loss'] for line in scores]):.4f}" in out
    assert {line["split"] for line in scores} == {"test"}


def test_a_study_that_ended_is_shown_and_reported(whole, tmp_path, capsys):
    (row,), folder = whole
    shown, search = read_table(folder)
    assert (shown[0]["lr"], shown[0]["valid loss"]) == (row["lr"], row["valid loss"])
    assert search["metric"] == "min loss"
    study([str(folder)])
    out = capsys.readouterr().out
    assert f"Best: trial 0, {folder}/trial0/seed0" in out
    assert "needs 8 trials" in out
    assert (folder / "figures" / "parallel_coordinates.png").stat().st_size < 60_000
    page = report([], tmp_path / "report.html", folder, rebuild=False).read_text()
    assert f"parallel coordinates, {folder.name}" in page
    assert "2 runs of 1 config" in page
    for wrong, flags, message in (
        (tmp_path, [], "is no study"),
        (folder, ["--trials", "4"], "without --trials"),
    ):
        with pytest.raises(jdl.Error, match=message):
            study([str(wrong), *flags])


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on(whole, tmp_path, killed):
    rows, folder = whole
    again = killed(SCRIPT, replace(SEEDS, study=tmp_path))
    assert without_place(again) == without_place(rows)
    for seed in ("seed0", "seed1"):
        assert same(folder / "trial0" / seed, tmp_path / "trial0" / seed)


@pytest.mark.slow
def test_successive_halving_stops_trials_which_are_resumable(tmp_path, killed):
    search = Search(grid=("lr=1e-4,3e-2,1e-2",), halving=2, study=tmp_path / "study")
    rows = killed(SCRIPT, search)
    assert [(row["lr"], row["steps"]) for row in rows] == [(0.03, 8), (0.01, 4), (1e-4, 4)]
    assert [row["status"] for row in rows] == ["finished", "stopped", "stopped"]
    flags = ("--eval-every", "4")  # as the rungs
    assert same(rows[0]["folder"] + "/seed0", alone(tmp_path / "a", "--lr", "3e-2", *flags))
    stopped = alone(tmp_path / "b", "--lr", "1e-2", "--until", "4", *flags)
    assert same(rows[1]["folder"] + "/seed0", stopped)
    best = Path(rows[0]["folder"]) / "seed0"  # as if it had failed after the rung: none replaces it
    (best / "summary.json").unlink()
    write_failure(tmp_path / "study", rows[0]["trial"], 0, ValueError("too late"))
    assert {(row["lr"], row["status"]) for row in tune(SCRIPT, search)} == {
        (0.03, "failed"),
        (0.01, "stopped"),
        (1e-4, "stopped"),
    }


def test_the_score_at_a_rung_is_that_of_its_step(tmp_path):
    evaluations = [(4, "valid", 3.0), (8, "valid", 1.0), (8, "test", 9.0), (12, "valid", None)]
    entries = [{"step": step, "split": split, "loss": loss} for step, split, loss in evaluations]
    write_json_lines(tmp_path / "metrics.jsonl", entries)
    assert [score(tmp_path, "valid", "loss", steps) for steps in (2, 4, 8)] == [None, 3.0, 1.0]
    assert score(tmp_path, "valid", "loss") is None  # it is not finite
    assert score(tmp_path, "test", "loss") == 9.0


@pytest.mark.slow
def test_a_trial_that_fails_harms_no_other_and_is_not_trained_again(whole, tmp_path, monkeypatch):
    search = Search(grid=("lr=3e-2,1e38", "hidden=8,-1"), study=tmp_path)
    rows = tune(SCRIPT, search)
    assert [row["status"] for row in rows] == ["finished", "failed", "failed", "failed"]
    assert same(rows[0]["folder"] + "/seed0", whole[1] / "trial0" / "seed0")
    failures = {(row["lr"], row["hidden"]): row["failure"] for row in rows}
    assert failures[0.03, (8,)] is None
    assert "NonFiniteError: The" in failures[1e38, (8,)]
    assert failures[0.03, (-1,)]
    assert rows[1]["valid loss"] is None
    monkeypatch.setattr(trials, "fit", None)
    assert tune(SCRIPT, search) == rows


@pytest.mark.slow
def test_trials_are_scored_on_the_same_validation_data(tmp_path):
    """Also in a second process, which finds the first trial trained."""
    script = tmp_path / "split.py"
    text = SCRIPT.read_text().replace("train.split(0.8, 0.2)", "train.split(1 - c.share, c.share)")
    script.write_text(text.replace("    lr:", "    share: float = 0.2\n    lr:"))
    search = Search(grid=("share=0.1,0.2",), study=tmp_path / "study")
    for _ in range(2):
        with pytest.raises(jdl.Error, match=r"Trial 1 \(share 0.2\) has other .* than trial 0"):
            tune(script, search)
        assert (tmp_path / "study" / "trial0" / "seed0" / "summary.json").exists()
        assert not (tmp_path / "study" / "trial1").exists()
    assert not (tmp_path / "study" / "failures").exists()


def test_a_missing_log_is_named_with_its_cure(whole, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole[1], folder, symlinks=True)
    search = replace(SEEDS, study=folder)
    run = (folder / "trial0" / "seed1").resolve()
    (run / "metrics.jsonl").unlink()
    (row,) = tune(SCRIPT, search)
    assert f"{run / 'metrics.jsonl'} is missing" in row["failure"]
    assert f"delete {run} to train" in row["failure"]


def test_a_full_disk_is_no_failure_of_a_trial(tmp_path, monkeypatch):
    def full(run, options, script):
        raise DiskError("the disk is full")

    monkeypatch.setattr(trials, "fit", full)
    with pytest.raises(DiskError, match="full"):
        tune(SCRIPT, replace(SEEDS, study=tmp_path))
    assert not (tmp_path / "failures").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_study_and_is_no_failure(whole, tmp_path, monkeypatch, number, code):
    def send(step, state, metrics):
        os.kill(os.getpid(), number)

    def fit_and_send(run, options, script):
        return fit(replace(run, hooks=[(3, send)]), options, script)

    search, fit = replace(SEEDS, study=tmp_path), trials.fit
    monkeypatch.setattr(trials, "fit", fit_and_send)
    with pytest.raises(PausedError, match="which is saved") as stopped:
        tune(SCRIPT, search)
    assert stopped.value.code == code
    assert not (tmp_path / "failures").exists()
    monkeypatch.setattr(trials, "fit", fit)
    tune(SCRIPT, search)
    assert same(whole[1] / "trial0" / "seed0", tmp_path / "trial0" / "seed0")


def test_runs_that_are_no_study_are_no_trials(tmp_path):
    (tmp_path / "study" / "net").mkdir(parents=True)
    with pytest.raises(jdl.Error, match="has files, and is no study"):
        tune(SCRIPT, replace(SEEDS, study=tmp_path / "study"))
    assert [path.name for path in tmp_path.glob("study/*")] == ["net"]


@pytest.mark.parametrize(("number", "expected"), [(27, [38, 114, 342]), (3, [334])])
def test_the_last_rung_is_far_from_the_end(number, expected):
    assert _rungs(Search(halving=3), 1_000, number) == expected


@pytest.mark.slow
def test_a_run_of_another_process_is_left_to_it_until_that_ends(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "POLL_SECONDS", 0.01)
    trained, (rows, folder) = [], whole
    run = (folder / "trial0" / "seed0").resolve().relative_to(folder.resolve())
    (tmp_path / run).mkdir(parents=True)
    shutil.copy(folder / "study.json", tmp_path)
    with hold_lock(tmp_path / run):
        arguments = (SCRIPT, replace(SEEDS, study=tmp_path), (), trained.append)
        thread = threading.Thread(target=tune, args=arguments)
        thread.start()
        while not trained:
            assert thread.is_alive()
            thread.join(0.05)
        thread.join(0.1)
        assert thread.is_alive()
    thread.join(60)
    of_runs = [line.partition(" (")[0] for line in trained if line.startswith("trial")]
    assert of_runs == ["trial 0, seed 1", "trial 0, seed 0"]
    assert without_place(tune(SCRIPT, replace(SEEDS, study=tmp_path))) == without_place(rows)


@pytest.mark.slow
def test_hyperband_has_the_brackets_of_its_paper_to_the_bit(tmp_path, killed):
    assert bracket_sizes(3, 4) == [81, 34, 15, 8, 5]  # table 1 of the paper, R = 81
    assert [most_rungs(n, 3) for n in (4, 5, 16, 17, 142, 143)] == [0, 1, 1, 2, 3, 4]
    dealt = brackets(range(17), [2, 6], 3, 0)
    assert [(len(some), stops) for some, stops in dealt] == [(9, [2, 6]), (5, [6]), (3, [])]
    assert sorted(n for some, _ in dealt for n in some) == list(range(17))
    rates = "lr=1e-4,1e-3,1e-2,3e-2"
    search = Search(grid=(rates,), halving=2, hyperband=True, study=tmp_path / "study")
    rows = killed(SCRIPT, search)
    (early, at), (late, none) = brackets(range(4), [4], 2, 0)
    assert (at, none, len(early), len(late)) == ([4], [], 2, 2)
    steps = {row["trial"]: row["steps"] for row in rows}
    assert [steps[n] for n in late] == [8, 8]
    assert sorted(steps[n] for n in early) == [4, 8]
    for row in (rows[0], rows[-1]):
        until = ("--until", str(row["steps"])) if row["status"] == "stopped" else ()
        flags = ("--lr", str(row["lr"]), "--eval-every", "4", *until)
        assert same(row["folder"] + "/seed0", alone(tmp_path / str(row["trial"]), *flags))


@pytest.mark.slow
def test_a_trial_is_counted_once(tmp_path):
    said = []
    search = Search(random=("hidden=choice(8,16)",), trials=4, study=tmp_path)
    rows = tune(SCRIPT, search, (), said.append)
    assert sorted(row["hidden"] for row in rows) == [(8,), (16,)]
    again = [line for line in said if "not counted again" in line]
    assert len(again) == 2
    assert len([line for line in said if line.startswith("trial")]) == 4


def test_a_flag_of_a_study_and_of_the_script_is_the_studys(tmp_path):
    text = SCRIPT.read_text().replace(
        "    validates: bool", "    seeds: int = 3\n    validates: bool"
    )
    (tmp_path / "common.py").write_text(text)
    said = []
    search = Search(grid=("lr=1,2",), seeds=2, trials=3, study=tmp_path / "study")
    with pytest.raises(jdl.Error, match="grid has 2"):
        tune(tmp_path / "common.py", search, (), said.append)
    assert said == ["--seeds is of the study: the config's seeds is --grid seeds=VALUE."]


def test_a_failure_of_a_run_that_another_process_finished_is_none(whole):
    rows, folder = whole
    write_failure(folder, 0, 1, ValueError("lost the race"))
    assert tune(SCRIPT, replace(SEEDS, study=folder)) == rows
    (folder / "failures" / "trial0-seed1.json").unlink()


@pytest.mark.slow
def test_a_script_that_raises_under_epochs_harms_no_other_trial(tmp_path):
    search = Search(grid=("batch=600,2000",), study=tmp_path)
    rows = tune(SCRIPT, search, ("--epochs", "2"))
    assert [(row["batch"], row["status"]) for row in rows] == [(600, "finished"), (2000, "failed")]
    assert "2,000" in rows[1]["failure"] or "2000" in rows[1]["failure"]


def test_the_best_is_one_that_trained_to_its_end(tmp_path, capsys):
    rows = [
        {"trial": 1, "status": "stopped", "steps": 4, "valid loss": 0.5, "failure": None},
        {"trial": 0, "status": "failed", "steps": 8, "valid loss": None, "failure": "NaN"},
    ]
    print_rows([{**row, "folder": str(tmp_path)} for row in rows])
    out = capsys.readouterr().out
    assert "Best:" not in out
    assert "No trial has come to its end" in out
