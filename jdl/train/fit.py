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

from jdl.learners import watched
from jdl.metrics import scalars
from jdl.parallel import to_local
from jdl.parallel import processes
from jdl.store.checkpoints import Checkpoints
from jdl.config import Options, difference, digest, to_json
from jdl.train.nan_trace import nan_trace
from jdl.figures.embedding import draw_embedding
from jdl.store.environment import command, fingerprint, git_commit
from jdl.train.evaluate import evaluator
from jdl.store.step_trace import write_leaves
from jdl.store.folder import opened, path_of, written
from jdl.train.placement import apply_config, place_on_devices, parts
from jdl.store.log import Log, Silent
from jdl.store.manifest import set_aside_damaged
from jdl.figures.samples import last_figures, painter
from jdl.train.preemption import Asked, PausedError, noticed
from jdl.train.progress import Display, display
from jdl.types import Batch, Loader, Error, Key, Learner, Metrics, Run, State

RECORDED = (
    "devices",
    "mesh",
    "parallel",
    "log_every",
    "eval_every",
    "save_every",
    "keep",
)  # options, in run.json
ALIKE = (*RECORDED, "fresh", "until", "accept")  # in all processes of a run
IN_FLIGHT = (
    8  # steps that may be dispatched and not yet settled; unbounded, simulated devices can deadlock
)


class NonFiniteError(Error):
    """The loss, the gradient or the parameters of a step are NaN or infinite."""

    code = 3


@dataclass(frozen=True)
class Result:
    """What a training left: the final state, its metrics by split, the folder, and where the time went."""

    state: State
    metrics: dict[str, Metrics]
    scores: dict[str, float]  # what `Run.score` says of the final state
    figures: list[Path]  # what was drawn of it
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
    written. Raises `NonFiniteError` at a loss or gradient that is NaN or infinite; what was saved before stays.
    SIGTERM, Ctrl-C and --until end it by a `PausedError` after the step under way, which is saved.
    """
    check(run)
    run = whole = apply_config(run)
    config, learner = run.config, run.learner
    loop, run, place = place_on_devices(run, options)
    folder = path_of(options.root, config)
    with ExitStack() as stack:
        stack.enter_context(written(folder))
        notes = _open(stack, folder, record(run, script, options), options)
        checkpoints = Checkpoints(
            folder / "checkpoints", run.best, options.keep, saved=partial(write_leaves, folder)
        )
        stack.callback(checkpoints.close)
        begin = partial(_begun, run, loop, place, checkpoints)
        state, stopping = begin()
        start = int(state.step)
        if options.until is not None and options.until <= start < config.steps:
            raise Error(
                f"{folder} is at step {start:,} already: --until is to be a later step, or left out."
            )
        write_leaves(folder, state, start=True)
        log = Log(folder, start) if processes.first() else Silent()
        stack.callback(log.close)
        screen = display(
            start, config.steps, run.train.size, options.quiet or not processes.first()
        )
        stack.callback(screen.close)
        for note in notes:
            screen.note(note)
        screen.note(
            f"{'Resuming' if start else 'Training'} {folder} from step {start:,} of {config.steps:,}"
        )
        trainer = _Trainer(
            run, loop, begin, options, checkpoints, log, screen, stopping, painter(whole, folder)
        )
        with noticed() as asked:
            state, seconds, waited = trainer.train(state, start, asked)
        metrics = trainer.final(state)
        variables = to_local(learner.eval_variables(state))
        scores = run.score(variables) if run.score else {}
        figures = last_figures(whole, variables, folder) + draw_embedding(whole, variables, folder)
    return Result(state, metrics, scores, figures, folder, int(state.step) - start, seconds, waited)


def _begun(
    run: Run, loop: Learner, place: Callable[[State], State], checkpoints: Checkpoints
) -> tuple[State, EarlyStopping]:
    """The state that the run goes on from, and the patience that it has: those of its newest checkpoint, if any."""
    key, example = jax.random.key(run.config.seed), run.train[0]
    mode, metric = run.best.split()
    stopping = EarlyStopping(mode, metric, run.config.patience)
    if checkpoints.latest() is None:
        return loop.init(key, example), stopping
    state, host = checkpoints.restore(place(jax.eval_shape(loop.init, key, example)))
    return state, replace(stopping, **host["stopping"])


def _open(stack: ExitStack, folder: Path, record: dict[str, Any], options: Options) -> list[str]:
    """Opens the run's folder in the first process, once all have the same run in hand, and lets the others see it.

    Gives what is to be told: of another environment than before, and of damaged checkpoints, which are out of the way.
    """
    notes: list[str] = []

    def alike() -> None:
        mine = {**record["config"], **{name: record[name] for name in ("data", "best")}}
        mine |= {name: getattr(options, name) for name in ALIKE}
        for process, text in enumerate(processes.gathered(json.dumps(mine))):
            if text != json.dumps(mine):
                raise Error(
                    f"Process {process} has another run in hand: {difference(mine, json.loads(text))}."
                )

    def seen() -> None:
        if not (folder / "run.json").exists():
            raise Error(
                f"Process {jax.process_index()} does not see {folder}: --root must be a folder that all share."
            )

    def first() -> None:
        if processes.first():
            notes.extend(stack.enter_context(opened(folder, record, options.fresh, options.accept)))
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
        begin: Callable[[], tuple[State, EarlyStopping]],
        options: Options,
        checkpoints: Checkpoints,
        log: Log | Silent,
        screen: Display,
        stopping: EarlyStopping,
        paint: Callable[[State], None],
    ) -> None:
        self.config, self.run, self.loop, self.begin = run.config, run, loop, begin
        self.checkpoints, self.log, self.screen, self.stopping = checkpoints, log, screen, stopping
        self.paint = paint
        twentieth = max(1, run.config.steps // 20)
        self.log_every, self.until = options.log_every, options.until
        self.eval_every = twentieth if options.eval_every is None else options.eval_every
        self.save_every = twentieth if options.save_every is None else options.save_every
        splits = {"valid": run.valid, "test": run.test}
        self.splits: dict[str, Loader] = {
            name: data for name, data in splits.items() if data is not None
        }
        self.watched = next(iter(self.splits), None)  # the split that is evaluated during training
        self.evaluators = {name: evaluator(loop, data) for name, data in self.splits.items()}
        self.evaluated: dict[str, tuple[int, Metrics]] = {}
        self.best: float | None = None
        self.loss: float | None = None  # of the step that was logged last

    def train(self, state: State, start: int, asked: Asked) -> tuple[State, float, float]:
        """Steps from `start` to the end of the run; also the seconds it took and the seconds it waited for data.

        Raises `PausedError` where it is asked to stop, once that step is saved.
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
            looks, number = self.due(step), asked(step) or (0 if step == self.until else None)
            if number is not None:
                looks.add("save")
            if looks or len(flying) > IN_FLIGHT:
                while len(flying) > (
                    0 if looks else IN_FLIGHT // 2
                ):  # in groups: each wait costs a switch of threads
                    self.settle(*flying.popleft())
            if looks:
                self.look(step, state, looks)
            if number is not None and step < self.config.steps:
                self.checkpoints.wait()
                raise PausedError(number, step)
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
        means = {name: float(np.asarray(mean.total)) for name, mean in watched(metrics).items()}
        self.log.trace(means)
        wrong = [name for name, total in means.items() if not math.isfinite(total)]
        if wrong or step % self.log_every == 0:
            numbers = scalars(jax.tree.map(np.asarray, metrics))
            self.log.write(step, "train", numbers)
            self.loss = numbers.get("loss")
            if wrong:
                self.went_bad(step, wrong[0], numbers[wrong[0]])
        self.screen.step(step, self.loss)

    def went_bad(self, step: int, name: str, value: float) -> None:
        """Notes a step that was left out, or ends the run and says where it went bad; earlier checkpoints are whole."""
        if self.config.on_nonfinite == "skip":
            self.screen.note(f"Step {step:>7,}  its {name} is {value}: it is left out")
            return
        self.checkpoints.wait()
        good = self.checkpoints.latest()
        kept = (
            "no checkpoint was saved before it"
            if good is None
            else f"the checkpoint of step {good} is kept"
        )
        raise NonFiniteError(
            f"The {name} of step {step} is {value}, and the run has stopped; {kept}. {self.seen_again(step)}. The "
            "usual cures are a smaller learning rate and optax.clip_by_global_norm; --on-nonfinite skip leaves such "
            "steps out."
        )

    def seen_again(self, step: int) -> str:
        """What `culprit` says of a step, to which the run is repeated from its newest checkpoint."""
        if jax.process_count() > 1:
            return "Where in the model it arose is told where the same run goes on in one process"
        state, _ = self.begin()
        self.screen.note(
            f"Step {step:>7,}  has gone bad: repeating from step {int(state.step):,} to see where"
        )
        sources = self.run.train.read(int(state.step))
        while int(state.step) < step - 1:
            state, _ = self.loop.step(state, next(sources))
        return nan_trace(
            self.run.learner, state, jax.jit(self.run.train.batch)(next(sources), state.step)
        )

    def look(self, step: int, state: State, looks: set[str]) -> None:
        """Evaluates, checks and saves, in this order: what is saved at a step has been logged before."""
        numbers = (
            self.evaluate(self.watched, step, state)
            if self.watched and looks & {"evaluate", "check"}
            else {}
        )
        if "evaluate" in looks:
            self.paint(state)
        if "check" in looks:
            self.stopping.check(numbers)
            if self.stopping.over:
                self.screen.note(
                    f"Step {step:,}: stopped early, after {self.stopping.without} checks without a gain"
                )
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
            shown = "  ".join(
                f"{name} {value:.4f}" for name, value in numbers.items() if "/" not in name
            )
            self.screen.note(f"Step {step:>7,}  {split:<5}  {shown}")
        return scalars(self.evaluated[split][1])

    def final(self, state: State) -> dict[str, Metrics]:
        """The metrics of every split at the end."""
        for split in self.splits:
            self.evaluate(split, int(state.step), state)
        self.log.flush()
        return {split: metrics for split, (_, metrics) in self.evaluated.items()}


def record(run: Run, script: Path | None, options: Options) -> dict[str, Any]:
    """What is written down of a run before it begins."""
    return {
        "config": to_json(run.config),
        "digest": digest(run.config),
        "seed": run.config.seed,
        "data": {name: part.fingerprint for name, part in parts(run).items()},
        "best": run.best,
        "script": str(script.resolve()) if script else None,
        "command": command(),
        "git": git_commit(script),
        "environment": fingerprint(),
        "options": {name: getattr(options, name) for name in RECORDED},
    }


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
        for part in parts(run).values():
            learner.objective.check(part.spec, part.bounds)

    def one_step(key: Key, batch: Batch) -> dict[str, Any]:
        state, _ = learner.step(learner.init(key, batch), batch)
        out = learner.objective.loss(learner.eval_variables(state), batch, key, False)
        return {name: m.value() for name, m in {"loss": out.loss, **out.metrics}.items()}

    found = jax.eval_shape(one_step, jax.eval_shape(jax.random.key, 0), run.train.spec)
    names = flatten_dict(found, sep="/")
    if metric not in names:
        raise Error(
            f"Run.best names the metric {metric!r}, and this objective has {', '.join(sorted(names))}."
        )
