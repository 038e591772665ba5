"""`tune`: hyperparameter optimization of an experiment, as a study of many runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from jdl.config import Config, Options, digest, to_json
from jdl.objectives.pretrained_model import record_loaded
from jdl.run import Run
from jdl.store.code import code_hashes, read_code
from jdl.store.environment import layout
from jdl.study.folder import open_study, write_table
from jdl.study.hyperband import brackets, most_rungs
from jdl.study.search import Search, points
from jdl.study.space import Space, parse_space, words
from jdl.study.suggest import Tried, store, stored, suggest
from jdl.study.trials import Experiment, Study, Trial, rungs
from jdl.train.check import check_run, metric_names
from jdl.train.command_line import parse
from jdl.train.experiment import load
from jdl.train.placement import apply_config, splits
from jdl.train.thread_pool import fix_thread_pool_size
from jdl.types import Error

Row = dict[str, Any]
COLUMNS = ("trial", "seeds", "status", "std", "folder", "failure")
OF_ONE_RUN = {  # options that a study sets, or that make no sense for many runs
    "root": "the runs of a study are in its folder: choose it by --study",
    "until": "--halving stops trials early",
    "fresh": "choose another folder by --study",
    "accept": "its runs have one config and one data",
    "coordinator": "start the same command several times: the processes share the trials",
    "processes": "start the same command several times: the processes share the trials",
    "process": "start the same command several times: the processes share the trials",
}


def tune(
    script: Path | str,
    search: Search,
    flags: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Hyperparameter optimization (tuning): trains the trials of a study; its rows, best first.

    `flags` are those of `jdl train SCRIPT`, for all trials. Each trial is a run that has the bits
    of the same run alone. A trial's score is its metric on the validation data at the end of
    training, the mean over its seeds. Killed and called again, it goes on, and ends with the same
    rows; several processes may work on one study. `report` is called with a line on each run.
    `pandas.DataFrame(rows)` makes a data frame of them. Wrong input raises `Error` before anything
    is written.
    """
    fix_thread_pool_size()
    script, flags = Path(script), list(flags)
    _, run, config = load(script)
    c, options = parse(config, flags, f"jdl study {script}", "", Options)
    _check_options(options, search)
    experiment = Experiment(script, run, c, flags, search.seeds)
    space = parse_space(search.grid, search.random, config)
    _note_common_flags(search, c, report)
    base = experiment.base
    prepared = run(base)
    mode, metric = _check_metric(prepared, search)
    trials = [experiment.trial(n, values) for n, values in enumerate(points(search, space))]
    trials = _distinct(trials, report)
    if search.halving and len({trial.configs[0].steps for trial in trials}) > 1:
        raise Error(
            "The trials have different numbers of steps, as epochs of other batches have, and "
            "--halving compares equal steps: give --steps, or leave out --halving."
        )
    stops = _rungs(search, base.steps, len(trials))
    if stops:
        options = replace(options, eval_every=stops[0])
    folder = search.study or Path("studies") / base.name
    study = Study(folder, experiment, options, mode, metric, report)
    open_study(folder, _description(study, prepared, search))
    if search.learns:
        trials = _distinct(_train_in_turn(study, space, search), report)
    reached = dict[int, int | None]()
    for some, at in _brackets(search, trials, stops):
        reached |= _train(study, some, at, search.halving)
    if study.programs.compiled:
        report(study.programs.summary())
    rows = _table(study, trials, reached)
    write_table(folder, rows)
    return rows


def _note_common_flags(search: Search, c: Config, report: Callable[[str], None]) -> None:
    """Says of a flag that is both of the study and of the script whose it is."""
    own = {field.name for field in fields(c)}
    for field in fields(search):
        if field.name in own and getattr(search, field.name) != field.default:
            flag = field.name.replace("_", "-")
            report(
                f"--{flag} is of the study: the config's {field.name} is --grid {field.name}=VALUE."
            )


def _distinct(trials: Sequence[Trial], report: Callable[[str], None]) -> list[Trial]:
    """The trials but for those whose config, and so whose runs, are those of an earlier one."""
    first = dict[str, Trial]()
    for trial in trials:
        earlier = first.setdefault(digest(trial.configs[0]), trial)
        if earlier is not trial:
            same = f"has the values of trial {earlier.number}, and is not counted again"
            report(f"trial {trial.number} ({words(trial.values)}) {same}")
    return list(first.values())


def _description(study: Study, prepared: Run, search: Search) -> dict[str, Any]:
    """What is recorded of a study, as JSON: of another, its folder is refused."""
    searched = {**asdict(search), "metric": f"{study.mode} {study.metric}"}
    unless = () if search.hyperband else ("hyperband",)  # as before the field existed
    for name in ("study", "maximize", "minimize", *unless):
        del searched[name]
    script, options = study.experiment.script, study.options
    description = {
        "config": to_json(prepared.config),
        "search": searched,
        "data": {name: data.fingerprint for name, data in splits(prepared).items()},
        "code": code_hashes(read_code(script)),
        "options": layout(asdict(options)),
        "script": str(script.resolve()),
    }
    return json.loads(json.dumps(description))


def _check_options(options: Options, search: Search) -> None:
    """Raises `Error` for an option that a study cannot have."""
    default = Options()
    for name, why in OF_ONE_RUN.items():
        if getattr(options, name) != getattr(default, name):
            raise Error(f"A study takes no --{name}: {why}.")
    if search.halving and options.eval_every is not None:
        raise Error("--halving evaluates at each of its rungs: leave out --eval-every.")


def _check_metric(run: Run, search: Search) -> tuple[str, str]:
    """The mode and the metric of a study; `Error` where the run has none, or no such data."""
    mode, metric = search.criterion(run.best)
    if run.valid is None:
        hint = " Here: --valid 0.1." if hasattr(run.config, "valid") else ""
        raise Error(
            "A study chooses by validation data, and this experiment has none. Never by its test "
            "data: the best of many trials is partly the luckiest, and its test result would be "
            "too good. Split some off: train, valid = train.split(0.9, 0.1), and "
            f"jdl.Run(..., valid=valid.batches(c.batch)).{hint}"
        )
    run = apply_config(run)
    with record_loaded([]):
        check_run(run)
        names = metric_names(run)
    if metric not in names:
        raise Error(f"There is no metric {metric!r}, but {', '.join(names)}.")
    return mode, metric


def _train_in_turn(study: Study, space: Space, search: Search) -> list[Trial]:
    """Trains one trial after another, each suggested by what those before it have reached."""
    trials, tried = list[Trial](), list[Tried]()
    for number in range(search.trials):
        values = stored(study.folder, number)
        if values is None:
            values = suggest(space, search.study_seed, study.mode, tried, search.sampler)
            values = store(study.folder, number, values)
        trials.append(study.experiment.trial(number, values))
        study.train(trials[-1:])
        scores = study.scores(trials[-1])
        tried.append((values, float(np.mean(scores)) if scores else None))
    return trials


def _rungs(search: Search, steps: int, trials: int) -> list[int]:
    """The steps at which successive halving stops trials; none without it."""
    if not search.halving:
        return []
    if search.hyperband:
        rounds = most_rungs(trials, search.halving)
    else:
        rounds = next(n for n in range(trials + 1) if search.halving ** (n + 1) > trials)
    first = search.first_rung or -(-steps // search.halving**rounds)
    if first >= steps:
        raise Error(
            f"The first rung, at step {first:,}, is not before the last step, {steps:,}: give an "
            "earlier --first-rung, more --steps, or more --trials."
        )
    return rungs(first, search.halving, steps)


def _brackets(
    search: Search, trials: Sequence[Trial], stops: Sequence[int]
) -> Sequence[tuple[Sequence[Trial], Sequence[int]]]:
    """The trials and rungs of the brackets of Hyperband; without it there is one bracket."""
    if search.hyperband:
        return brackets(trials, stops, search.halving, search.study_seed)
    return [(trials, stops)]


def _train(
    study: Study, trials: Sequence[Trial], stops: Sequence[int], factor: int
) -> dict[int, int | None]:
    """Trains all trials; the step that each was stopped at, None for the end.

    By successive halving (Jamieson and Talwalkar, 2016), at each rung one in `factor` trials goes
    on: the best of those that reached it.
    """
    left, reached = list(trials), dict[int, int | None]()
    for steps in stops:
        study.train(left, steps)
        reached |= {trial.number: steps for trial in left}
        left = study.ranked(left, steps)[: max(1, len(left) // factor)]
        left.sort(key=lambda trial: trial.number)
    study.train(left)
    return reached | {trial.number: None for trial in left}


def _table(study: Study, trials: Sequence[Trial], reached: dict[int, int | None]) -> list[Row]:
    """The trials as rows: first those that got farthest, of these the best; last what failed."""
    rows, ends = [], sorted(set(reached.values()), key=lambda step: (step is None, step or 0))
    for end in reversed(ends):
        ranked = study.ranked([trial for trial in trials if reached[trial.number] == end], end)
        rows += [_row(study, trial, end) for trial in ranked]
    done = {row["trial"] for row in rows}
    return rows + [_row(study, t, reached[t.number]) for t in trials if t.number not in done]


def _row(study: Study, trial: Trial, end: int | None) -> Row:
    """A trial as a row of the table."""
    scores = study.scores(trial, end)
    failures = [study.failure(trial, c) for c in trial.configs]
    failed = next(filter(None, failures), None if scores else study.no_score(trial))
    return {
        "trial": trial.number,
        **{
            f"config.{field}" if field in COLUMNS else field: getattr(trial.configs[0], field)
            for field in trial.values
        },
        "seeds": len(trial.configs),
        "steps": trial.configs[0].steps if end is None else end,
        "status": "failed" if failed else "finished" if end is None else "stopped",
        f"valid {study.metric}": float(np.mean(scores)) if scores else None,
        "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "folder": str(study.folder / f"trial{trial.number}"),
        "failure": failed,
    }
