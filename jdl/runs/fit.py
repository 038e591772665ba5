"""The loop: the one place that trains, with the clock and the disk. It only looks; it never changes the numbers."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jdl.learners import compiled, fed, in_precision
from jdl.metrics import scalars
from jdl.parallel import build, check_rows, devices_of, elastic, line, placed, pmapped, sharded, spread
from jdl.runs import processes
from jdl.runs.checkpoints import Checkpoints, here
from jdl.runs.config import Options, difference, digest, to_json
from jdl.runs.environment import command, fingerprint, git_commit
from jdl.runs.evaluate import evaluator
from jdl.runs.folder import opened, path_of
from jdl.runs.log import Log, Silent
from jdl.runs.manifest import set_aside_damaged
from jdl.runs.preemption import Asked, PreemptedError, noticed
from jdl.runs.progress import Display, display
from jdl.types import Batch, Data, Error, Key, Learner, Mean, Metrics, Run, State

ALIKE = ("devices", "mesh", "parallel", "eval_every", "save_every", "keep", "fresh")  # in all processes of a run
IN_FLIGHT = 8  # steps that may be dispatched and not yet settled; unbounded, simulated devices can deadlock
WATCHED = ("loss", "grad_norm", "param_norm")  # means: a step in which one of them is not finite ends the run


class NonFiniteError(Error):
    """The loss, the gradient or the parameters of a step are NaN or infinite."""

    code = 3


@dataclass(frozen=True)
class Result:
    """What a training left: the final state, its metrics by split, the folder, and where the time went."""

    state: State
    metrics: dict[str, Metrics]
    scores: dict[str, float]  # what `Run.score` says of the final state
    folder: Path
    steps: int
    seconds: float
    waited: float  # seconds of `seconds` in which the loop waited for data


@dataclass
class EarlyStopping:
    """Patience: how many checks in a row brought nothing better. Saved with every checkpoint."""

    mode: str
    metric: str
    patience: int
    best: float | None = None
    without: int = 0

    def check(self, numbers: dict[str, float]) -> None:
        """Takes the numbers of one more check into account."""
        value = numbers[self.metric]
        if better(self.mode, value, self.best):
            self.best, self.without = value, 0
        else:
            self.without += 1

    @property
    def over(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.patience <= self.without


def better(mode: str, value: float, best: float | None) -> bool:
    """Whether `value` is above ("max") or below ("min") the best so far."""
    return best is None or (value > best if mode == "max" else value < best)


def fit(run: Run, options: Options = Options(), script: Path | None = None) -> Result:
    """Trains the run to its end, from its newest checkpoint where there is one, and evaluates it.

    Everything that can be wrong with the input is looked at first, and raises `Error` before anything is compiled or
    written. Raises `NonFiniteError` at a loss or gradient that is NaN or infinite; what was saved before stays. SIGTERM
    and Ctrl-C end it by a `PreemptedError` after the step under way, which is saved.
    """
    check(run)
    run = at_precision(run)
    config, learner = run.config, run.learner
    loop, run, place = _laid_out(run, options)
    folder = path_of(options.root, config)
    with ExitStack() as stack:
        notes = _open(stack, folder, record(run, script), options)
        checkpoints = Checkpoints(folder / "checkpoints", run.best, options.keep)
        stack.callback(checkpoints.close)
        key, example = jax.random.key(config.seed), run.train[0]
        mode, metric = run.best.split()
        stopping = EarlyStopping(mode, metric, config.patience)
        if checkpoints.latest() is None:
            state = loop.init(key, example)
        else:
            state, host = checkpoints.restore(place(jax.eval_shape(loop.init, key, example)))
            stopping = replace(stopping, **host["stopping"])
        start = int(state.step)
        log = Log(folder, start) if processes.first() else Silent()
        stack.callback(log.close)
        screen = display(start, config.steps, run.train.size, options.quiet or not processes.first())
        stack.callback(screen.close)
        for note in notes:
            screen.note(note)
        screen.note(f"{'Resuming' if start else 'Training'} {folder} from step {start:,} of {config.steps:,}")
        trainer = _Trainer(run, loop, options, checkpoints, log, screen, stopping)
        with noticed() as asked:
            state, seconds, waited = trainer.train(state, start, asked)
        metrics = trainer.final(state)
        scores = run.score(here(learner.view(state))) if run.score else {}
    return Result(state, metrics, scores, folder, int(state.step) - start, seconds, waited)


def _laid_out(run: Run, options: Options) -> tuple[Learner, Run, Callable[[State], State]]:
    """The run's learner, fed and compiled for the devices; the run with its data on them; and how states lie there."""
    mesh, shards, pmap = build(options.mesh, options.devices), run.config.elastic, options.parallel == "pmap"
    if shards and pmap:
        raise Error("--elastic computes shard by shard, and not by --parallel pmap: drop one of the two.")
    if shards:
        return elastic(run.learner, run.train, shards, devices_of(mesh, "--elastic")), run, lambda like: like
    if pmap:
        mesh = line(devices_of(mesh, "--parallel pmap"))
    if mesh is None:
        return compiled(fed(run.learner, run.train)), run, lambda like: like
    check_rows(mesh, run.train.size)
    on_mesh: dict[str, Any] = {name: spread(data, mesh) for name, data in _parts(run).items()}
    run = replace(run, **on_mesh)
    loop = pmapped(run.learner, run.train, mesh) if pmap else compiled(sharded(fed(run.learner, run.train), mesh))
    return loop, run, partial(placed, mesh)


def _open(stack: ExitStack, folder: Path, record: dict[str, Any], options: Options) -> list[str]:
    """Opens the run's folder in the first process, once all have the same run in hand, and lets the others see it.

    Gives what is to be told: of another environment than before, and of damaged checkpoints, which are out of the way.
    """
    notes: list[str] = []

    def alike() -> None:
        mine = {**record["config"], **{name: record[name] for name in ("data", "best")}}
        mine |= {name: getattr(options, name) for name in ALIKE}
        for process, text in enumerate(processes.gathered(json.dumps(mine))):
            if json.loads(text) != mine:
                raise Error(f"Process {process} has another run in hand: {difference(mine, json.loads(text))}.")

    def seen() -> None:
        if not (folder / "run.json").exists():
            raise Error(f"Process {jax.process_index()} does not see {folder}: --root must be a folder that all share.")

    def first() -> None:
        if processes.first():
            notes.extend(stack.enter_context(opened(folder, record, options.fresh)))
            notes.extend(set_aside_damaged(folder / "checkpoints"))

    processes.together(alike)
    processes.together(first)
    processes.together(seen)
    return notes


class _Trainer:
    """The loop, and what it does between steps."""

    def __init__(
        self,
        run: Run,
        loop: Learner,
        options: Options,
        checkpoints: Checkpoints,
        log: Log | Silent,
        screen: Display,
        stopping: EarlyStopping,
    ) -> None:
        self.config, self.run, self.loop = run.config, run, loop
        self.checkpoints, self.log, self.screen, self.stopping = checkpoints, log, screen, stopping
        twentieth = max(1, run.config.steps // 20)
        self.log_every = options.log_every
        self.eval_every = twentieth if options.eval_every is None else options.eval_every
        self.save_every = twentieth if options.save_every is None else options.save_every
        splits = {"valid": run.valid, "test": run.test}
        self.splits: dict[str, Data] = {name: data for name, data in splits.items() if data is not None}
        self.watched = next(iter(self.splits), None)  # the split that is evaluated during training
        self.evaluators = {name: evaluator(loop, data) for name, data in self.splits.items()}
        self.evaluated: dict[str, tuple[int, Metrics]] = {}
        self.best: float | None = None
        self.loss: float | None = None  # of the step that was logged last

    def train(self, state: State, start: int, asked: Asked) -> tuple[State, float, float]:
        """Steps from `start` to the end of the run; also the seconds it took and the seconds it waited for data.

        Raises `PreemptedError` where it is `asked` to stop, once that step is saved.
        """
        flying: deque[tuple[int, Metrics]] = deque()
        began, waited, step = time.perf_counter(), 0.0, start
        sources = self.run.train.read(start)
        while step < self.config.steps and not self.stopping.over:
            before = time.perf_counter()
            source = next(sources)
            waited += time.perf_counter() - before
            state, metrics = self.loop.step(state, source)
            step += 1
            flying.append((step, metrics))
            looks, number = self.due(step), asked(step)
            if number:
                looks.add("save")
            if looks or len(flying) > IN_FLIGHT:
                while len(flying) > (0 if looks else IN_FLIGHT // 2):  # in groups: each wait costs a switch of threads
                    self.settle(*flying.popleft())
            if looks:
                self.look(step, state, looks)
            if number and step < self.config.steps:
                self.checkpoints.wait()
                raise PreemptedError(number, step)
        return state, time.perf_counter() - began, waited

    def due(self, step: int) -> set[str]:
        """What is to be done after this step."""
        last = step == self.config.steps
        due = set()
        if self.watched and (last or (self.eval_every and step % self.eval_every == 0)):
            due.add("evaluate")
        if self.config.patience and step % self.config.check_every == 0:
            due.add("check")
        if last or (self.save_every and step % self.save_every == 0):
            due.add("save")
        return due

    def settle(self, step: int, metrics: Metrics) -> None:
        """Fetches a finished step's numbers: stops at one that is not finite, and logs where it is time to."""
        means = {name: mean for name in WATCHED if isinstance(mean := metrics.get(name), Mean)}
        wrong = [name for name, mean in means.items() if not math.isfinite(mean.total)]
        if wrong or step % self.log_every == 0:
            numbers = scalars(jax.tree.map(np.asarray, metrics))
            self.log.write(step, "train", numbers)
            self.loss = numbers.get("loss")
            if wrong:
                self.stop_at_non_finite(step, wrong[0], numbers[wrong[0]])
        self.screen.step(step, self.loss)

    def stop_at_non_finite(self, step: int, name: str, value: float) -> None:
        """Ends the run; the checkpoints before this step are whole."""
        self.checkpoints.wait()
        good = self.checkpoints.latest()
        kept = "no checkpoint was saved before it" if good is None else f"the checkpoint of step {good} is kept"
        raise NonFiniteError(
            f"The {name} of step {step} is {value}, and the run has stopped; {kept}. Look at the data of that step and "
            "at the learning rate: a smaller one, or optax.clip_by_global_norm, are the usual cures."
        )

    def look(self, step: int, state: State, looks: set[str]) -> None:
        """Evaluates, checks and saves, in this order: what is saved at a step has been logged before."""
        numbers = self.evaluate(self.watched, step, state) if self.watched and looks & {"evaluate", "check"} else {}
        if "check" in looks:
            self.stopping.check(numbers)
            if self.stopping.over:
                self.screen.note(f"Step {step:,}: stopped early, after {self.stopping.without} checks without a gain")
        improved = self.improves(numbers)
        if "save" in looks or improved or self.stopping.over:
            self.save(step, state, numbers)

    def save(self, step: int, state: State, numbers: dict[str, float]) -> None:
        """Saves the state, after everything that is logged of it is on the disk."""
        self.log.flush()
        stopping = {"best": self.stopping.best, "without": self.stopping.without}
        self.checkpoints.save(step, state, {"stopping": stopping}, numbers)

    def improves(self, numbers: dict[str, float]) -> bool:
        """Whether these numbers are the best so far."""
        mode, metric = self.run.best.split()
        if metric not in numbers or not better(mode, numbers[metric], self.best):
            return False
        self.best = numbers[metric]
        return True

    def evaluate(self, split: str, step: int, state: State) -> dict[str, float]:
        """The numbers of a split at this state, logged."""
        if self.evaluated.get(split, (None,))[0] != step:
            self.evaluated[split] = (step, self.evaluators[split](state))
            numbers = scalars(self.evaluated[split][1])
            self.log.write(step, split, numbers)
            shown = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items() if "/" not in name)
            self.screen.note(f"Step {step:>7,}  {split:<5}  {shown}")
        return scalars(self.evaluated[split][1])

    def final(self, state: State) -> dict[str, Metrics]:
        """The metrics of every split at the end."""
        for split in self.splits:
            self.evaluate(split, int(state.step), state)
        self.log.flush()
        return {split: metrics for split, (_, metrics) in self.evaluated.items()}


def at_precision(run: Run) -> Run:
    """The run, whose learner computes in the precision of its config."""
    return replace(run, learner=in_precision(run.learner, run.config.precision))


def record(run: Run, script: Path | None) -> dict[str, Any]:
    """What is written down of a run before it begins."""
    return {
        "config": to_json(run.config),
        "digest": digest(run.config),
        "seed": run.config.seed,
        "data": {name: part.fingerprint for name, part in _parts(run).items()},
        "best": run.best,
        "script": str(script.resolve()) if script else None,
        "command": command(),
        "git": git_commit(script),
        "environment": fingerprint(),
    }


def _parts(run: Run) -> dict[str, Data]:
    """The data that the run has, by the names of its fields."""
    parts = {"train": run.train, "valid": run.valid, "test": run.test}
    return {name: part for name, part in parts.items() if part is not None}


def check(run: Run) -> None:
    """Raises `Error` where config, data and objective do not go together, before anything is compiled."""
    if not run.config.name:
        raise Error("The config has no name: give it one, as the folder of its runs.")
    mode, _, metric = run.best.partition(" ")
    if mode not in ("max", "min") or not metric:
        raise Error(f'Run.best is "max METRIC" or "min METRIC", and not {run.best!r}.')
    if run.config.patience and run.valid is None:
        raise Error(
            "Early stopping (--patience) needs a validation set, Run(valid=...): to choose by the test set would make "
            "its result too good. Split one off: train, valid = train.split(0.9, 0.1)."
        )
    learner = run.learner
    if learner.objective.check:
        for part in _parts(run).values():
            learner.objective.check(part.spec, part.bounds)

    def one_step(key: Key, batch: Batch) -> dict[str, Any]:
        state, _ = learner.step(learner.init(key, batch), batch)
        out = learner.objective.loss(learner.view(state), batch, key, False)
        return {name: m.value() for name, m in {"loss": out.loss, **out.metrics}.items()}

    found = jax.eval_shape(one_step, jax.eval_shape(jax.random.key, 0), run.train.spec)
    names = flatten_dict(found, sep="/")
    if metric not in names:
        raise Error(f"Run.best names the metric {metric!r}, and this objective has {', '.join(sorted(names))}.")
