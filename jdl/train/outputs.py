"""The outputs of a training: folder, checkpoints, log and progress display."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from jdl.config import Options, difference
from jdl.objectives.pretrained_model import Loaded
from jdl.parallel import processes
from jdl.run import Run
from jdl.store.checkpoints import Checkpoints
from jdl.store.code import read_code
from jdl.store.log import Log, NoLog
from jdl.store.manifest import move_damaged_aside
from jdl.store.record import RECORDED_OPTIONS, Changes, make_record, open_run, read_record
from jdl.train.notebook_code import CodeNotFoundError, notebook_code
from jdl.train.placement import splits
from jdl.train.program_hash import program_hash
from jdl.train.progress import Display, progress_display
from jdl.train.trackers import open_trackers
from jdl.train.tracking import Tracked
from jdl.types import Error

SHARED_OPTIONS = (*RECORDED_OPTIONS, "fresh", "until", "accept")  # equal in all processes of a run


@dataclass(frozen=True)
class Outputs:
    """The outputs of a training: folder, checkpoints, log and progress display."""

    folder: Path
    checkpoints: Checkpoints
    log: Log
    display: Display

    def close(self, error: object, *_: object) -> None:
        """Closes the log and the display, after an error or without; as a context's exit does.

        The checkpoints are closed by their owner.
        """
        try:
            self.display.close()
        finally:
            self.log.close(finished=error is None)


def open_outputs(
    folder: Path,
    run: Run,
    options: Options,
    checkpoints: Checkpoints,
    start: int,
    waited: Callable[[], float],
) -> Outputs:
    """Opens the outputs of a run that starts after step `start`; only the first process writes.

    `waited` gives the seconds in which the loop has waited for data.
    """
    writes, steps = processes.is_first(), run.config.steps
    log: Log = NoLog()
    if writes:
        tracked = Tracked(folder, read_record(folder), start)
        log = Log(folder, start, open_trackers(options.track, tracked), waited)
    quiet = options.quiet or not writes
    return Outputs(
        folder, checkpoints, log, progress_display(start, steps, run.train.batch_size, quiet)
    )


@contextmanager
def open_folder(
    folder: Path, run: Run, options: Options, script: Path | None, loaded: Collection[Loaded] = ()
) -> Iterator[Changes]:
    """Opens the run's folder in the first process, after checking that all have the same run.

    Yields what has changed, with notes for the user: on a changed environment, on damaged
    checkpoints. Raises `Error` where the folder cannot be opened, or the processes have different
    runs or do not share it. The run's learner is one of `trace_once`.
    """
    notes, text = list[str](), None
    if script is None:
        try:
            script, text = notebook_code(run) or (None, None)
        except CodeNotFoundError as reason:
            notes.append(f"This run's code is not kept, so only jdl.restore finds it: {reason}")
    code = read_code(script, text)
    program = None if code else program_hash(run)
    record = make_record(run, splits(run), script, code, options, loaded, program)
    changes = Changes(notes)
    with ExitStack() as stack:

        def open_in_first() -> None:
            nonlocal changes
            if processes.is_first():
                opened = open_run(folder, record, code, options.fresh, options.accept)
                found = stack.enter_context(opened)
                damaged = move_damaged_aside(folder / "checkpoints")
                changes = replace(found, notes=[*notes, *found.notes, *damaged])

        processes.together(lambda: _check_equal(record, options))
        processes.together(open_in_first)
        processes.together(lambda: _check_shared(folder))
        yield changes


def _check_equal(record: dict[str, Any], options: Options) -> None:
    """Raises `Error` where another process has another run."""
    mine = {**record["config"], "data": record["data"], "best": record["best"]}
    mine |= {name: getattr(options, name) for name in SHARED_OPTIONS}
    mine |= {"pretrained": [one["sha256"] for one in record.get("pretrained", [])]}
    for process, text in enumerate(processes.gather(json.dumps(mine))):
        if text != json.dumps(mine):
            differing = difference(mine, json.loads(text))
            raise Error(f"Process {process} was started with another run: {differing}.")


def _check_shared(folder: Path) -> None:
    """Raises `Error` where this process cannot read what the first one wrote."""
    if not (folder / "run.json").exists():
        raise Error(
            f"Process {jax.process_index()} cannot read {folder}: --root must be a folder that all "
            "processes share."
        )
