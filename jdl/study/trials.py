"""The trials of a study: each is an ordinary run for each seed, trained one after another.

All in one process, in which the imports and the start of JAX are paid once. The runs share compiled
programs, and each has the bits that it has alone. Several processes may work on one study: the
locks of the runs divide the work.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from jdl.config import Config, Options, flat_config, to_json
from jdl.learners.shared_programs import SharedPrograms, share_programs
from jdl.numbers import number_text
from jdl.run import Run
from jdl.store import log
from jdl.store.folder import DiskError, run_folder
from jdl.store.lock import LockedError, is_locked
from jdl.study import folder as files
from jdl.study.space import with_values, words
from jdl.train.experiment import RunFunction, complete
from jdl.train.fit import fit
from jdl.train.preemption import PausedError
from jdl.types import Error

POLL_SECONDS = 0.5  # between two looks at runs that other processes train


class OtherDataError(Error):
    """A trial would be scored on other validation data than those before it."""


@dataclass(frozen=True)
class Trial:
    """A trial: the values that it tries, and its configs, one for each seed."""

    number: int
    values: Mapping[str, str]
    configs: Sequence[Config]


@dataclass(frozen=True)
class Experiment:
    """The experiment of a study: its script, and what the command line says of all trials."""

    script: Path
    run: RunFunction
    config: Config
    flags: list[str]
    seeds: int

    def trial(self, number: int, values: Mapping[str, str]) -> Trial:
        """A trial, with a config for each seed; `Error` where the config refuses the values."""
        tried = with_values(self.config, values)
        try:
            c = self.complete(tried)
        except Exception:  # with --epochs: the script fails for these values, and so will its run
            c = replace(tried, name=self.base.name, steps=self.base.steps)
        made, meant = (flat_config(to_json(one)) for one in (c, tried))
        if replaced := [name for name in values if made[name] != meant[name]]:
            raise Error(
                f"{replaced[0]} is searched, but a flag or the script sets it to "
                f"{made[replaced[0]]}: leave out one of the two."
            )
        configs = [replace(c, seed=seed) for seed in range(c.seed, c.seed + self.seeds)]
        return Trial(number, values, configs)

    @cached_property
    def base(self) -> Config:
        """The config of the command line, to which trials give their values."""
        return self.complete(self.config)

    def complete(self, c: Config) -> Config:
        """The config with its name, and its epochs as steps."""
        return complete(self.run, c, self.flags, self.script)


@dataclass(frozen=True)
class Study:
    """A study whose folder is open."""

    folder: Path
    experiment: Experiment
    options: Options
    mode: str  # max or min
    metric: str  # of the validation data
    report: Callable[[str], None]
    programs: SharedPrograms = field(default_factory=SharedPrograms)

    def train(self, trials: Sequence[Trial], steps: int | None = None) -> None:
        """Trains these trials up to a step, or to their end; those that are trained are left.

        Runs that another process trains are left to it, and waited for: if it dies, they go on
        here.
        """
        for trial in trials:
            files.link(self.folder, trial.number, self.place(trial.configs[0]).parent)
        while waiting := list(self._untrained(trials, steps)):
            free = [one for one in waiting if not is_locked(self.place(one[1]))]
            trained = [self._train(trial, c, steps) for trial, c in free]
            if not any(trained):
                time.sleep(POLL_SECONDS)

    def _untrained(
        self, trials: Sequence[Trial], steps: int | None
    ) -> Iterator[tuple[Trial, Config]]:
        for trial in trials:
            for c in trial.configs:
                if not self.failure(trial, c) and not files.is_trained(self.place(c), steps):
                    yield trial, c

    def _train(self, trial: Trial, c: Config, steps: int | None) -> bool:
        """Trains a run unless another process does, or has; whether this one did.

        What raises an error is recorded as a failure of this run alone; only a full disk, a signal
        or other validation data end the study.
        """
        if (trial, c) not in self._untrained([trial], steps) or is_locked(self.place(c)):
            return False
        try:
            self._fit(trial, c, steps)
        except LockedError:
            return False
        except (DiskError, OtherDataError, PausedError):  # by a signal: the same command goes on
            raise
        except Exception as error:
            if files.is_trained(self.place(c), steps):  # by another process, since we looked
                return False
            files.write_failure(self.folder, trial.number, c.seed, error)
        finally:
            gc.collect()  # frees its arrays before the next run makes its own
        self.report(self._line(trial, c, steps))
        return True

    def _fit(self, trial: Trial, c: Config, steps: int | None) -> None:
        """Trains a run as `jdl train` does, without figures of metrics, which take a second.

        Unless --save-every says otherwise, only the last and the best state are saved: checkpoints
        cost more than the training of a small run.
        """
        options = replace(self.options, root=self.folder, until=steps, quiet=True)
        options = replace(options, save_every=options.save_every or 0)
        one_device = options.devices is None and not options.mesh and not c.elastic
        try:
            with share_programs(self.programs) if one_device else nullcontext():
                run = self.experiment.run(c)
                self._check_data(trial, c, run)
                fit(run, options, self.experiment.script)
        except PausedError as paused:
            if paused.code:  # by a signal, not by `until`
                raise

    def _check_data(self, trial: Trial, c: Config, run: Run) -> None:
        """Raises `OtherDataError` where its score could not be ranked with those of the others."""
        first = files.first_validation_data(self.folder, c.seed)
        fingerprint = None if run.valid is None else run.valid.fingerprint
        if first is not None and fingerprint != first[1]:
            raise OtherDataError(
                f"Trial {trial.number} ({words(trial.values)}) has other validation data than "
                f"trial {first[0]}, so their scores cannot be ranked: search no field that changes "
                "the validation data, and choose another folder by --study."
            )

    def _line(self, trial: Trial, c: Config, steps: int | None) -> str:
        """What became of a run, in one line."""
        failed = self.failure(trial, c)
        value = files.score(self.place(c), "valid", self.metric, steps)
        at = "" if steps is None else f" at step {steps:,}"
        result = (
            failed or f"valid {self.metric} {'not finite' if value is None else number_text(value)}"
        )
        return f"trial {trial.number}, seed {c.seed} ({words(trial.values)}){at}: {result}"

    def failure(self, trial: Trial, c: Config) -> str | None:
        """Why a run failed; None if it has not, or another process has finished it since."""
        finished = (self.place(c) / "summary.json").exists()
        return None if finished else files.read_failure(self.folder, trial.number, c.seed)

    def place(self, c: Config) -> Path:
        """The folder of a run."""
        return run_folder(self.folder, c)

    def scores(self, trial: Trial, steps: int | None = None) -> list[float]:
        """The metric of each seed, at the end or after these steps; empty if any seed failed.

        A run that failed later has the score that it had then: a study that is started again must
        choose as before.
        """
        values = [
            files.score(self.place(c), "valid", self.metric, steps)
            if files.is_trained(self.place(c), steps)
            else None
            for c in trial.configs
        ]
        return [value for value in values if value is not None] if None not in values else []

    def no_score(self, trial: Trial) -> str:
        """Why a trial without a failure has no score, and the cure."""
        for run in map(self.place, trial.configs):
            if not any(line["split"] == "valid" for line in log.read(run)):
                return (
                    f"{run / 'metrics.jsonl'} is missing, or has no line of the validation data: "
                    f"delete {run} to train this run again"
                )
        return f"{self.metric} is not finite"

    def ranked(self, trials: Sequence[Trial], steps: int | None = None) -> list[Trial]:
        """The trials with a score, best first; equal ones in their order."""
        sign = -1 if self.mode == "max" else 1
        means = {trial.number: self.scores(trial, steps) for trial in trials}
        scored = [trial for trial in trials if means[trial.number]]
        return sorted(scored, key=lambda trial: sign * float(np.mean(means[trial.number])))


def rungs(first: int, factor: int, steps: int) -> list[int]:
    """The rungs of successive halving, in steps: first, first * factor, ... below `steps`."""
    found = [first]
    while found[-1] * factor < steps:
        found.append(found[-1] * factor)
    return found
