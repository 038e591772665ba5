"""`fit`: trains a run in its folder, from its newest checkpoint, and evaluates it."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from inspect import isfunction
from pathlib import Path

import jax

from jdl.config import Options, to_json
from jdl.figures.anomalies import draw_anomalies
from jdl.figures.captions import draw_captions
from jdl.figures.density import draw_density
from jdl.figures.detections import draw_detections
from jdl.figures.embedding import draw_embedding
from jdl.figures.forecasts import draw_forecasts
from jdl.figures.keypoints import draw_pose
from jdl.figures.masks import draw_segmentation
from jdl.figures.motifs import draw_motifs
from jdl.figures.readings import draw_readings
from jdl.figures.retrieval import draw_retrieval
from jdl.figures.samples import draw_figures, sample_writer
from jdl.figures.speech import draw_speech
from jdl.learners import trace_once
from jdl.objectives.pretrained_model import record_loaded
from jdl.parallel import mesh_notes, processes, to_local
from jdl.run import Run
from jdl.store.catalog import shorter_run
from jdl.store.checkpoints import Checkpoints
from jdl.store.folder import report_disk_errors, run_folder
from jdl.store.mirror import BackgroundMirror, Mirror, open_mirror
from jdl.store.orbax_log import quiet_orbax
from jdl.store.record import Changes, loaded_before
from jdl.store.saved_arrays import check_fit
from jdl.store.step_trace import write_leaves
from jdl.train.check import check_run
from jdl.train.deterministic import deterministic_notes
from jdl.train.epochs import in_epochs
from jdl.train.evaluate import evaluator
from jdl.train.hooks import (
    Checkpointing,
    EarlyStopping,
    Evaluation,
    Patience,
    Pausing,
    SamplePictures,
    TrainingLog,
    default_eval_every,
    default_save_every,
)
from jdl.train.loop import StepHook, train
from jdl.train.nonfinite import NonFiniteSteps
from jdl.train.outputs import Outputs, open_folder, open_outputs
from jdl.train.placement import Placement, apply_config, place_on_devices, splits
from jdl.train.preemption import StopRequests, stop_requests
from jdl.train.result import Result, recorded_result, write_summary
from jdl.train.stragglers import StragglerWatch
from jdl.train.thread_pool import fix_thread_pool_size, thread_pool_notes
from jdl.train.timed_loader import TimedLoader
from jdl.train.trackers import check_trackers
from jdl.train.unread_columns import unread_notes
from jdl.train.user_hooks import UserHooks
from jdl.types import Error, State

FIGURES = (  # what draws those of a trained run; each draws nothing for runs of other kinds
    draw_figures,
    draw_readings,
    draw_speech,
    draw_segmentation,
    draw_detections,
    draw_pose,
    draw_retrieval,
    draw_captions,
    draw_forecasts,
    draw_embedding,
    draw_density,
    draw_motifs,
    draw_anomalies,
)
OTHER_CODE = (
    "It was trained by other code, or with other versions of the libraries (run.json has them): "
    "put those back, or train anew, with --fresh (which moves the old run aside) or under another "
    "--name."
)


def fit(run: Run, options: Options = Options(), script: Path | None = None) -> Result:
    """Trains a run to its last step, resuming from its newest checkpoint, and evaluates it.

    Wrong input raises `Error` before anything is compiled or written. A loss, gradient or parameter
    that is NaN or infinite raises `NonFiniteError`; earlier checkpoints stay. SIGTERM, SIGHUP,
    Ctrl-C and --until raise `PausedError`, after the current step is saved. `script` is the
    experiment's file: a copy is kept in the run's folder, from which `jdl evaluate` and other
    commands rebuild it.
    """
    if not isinstance(run, Run):
        kind = "function" if isfunction(run) else "class"
        named = isfunction(run) or isinstance(run, type)
        given = f"the {kind} {run.__name__}" if named else f"a {type(run).__name__}"
        raise Error(f"jdl.fit takes a jdl.Run, not {given}: call jdl.fit(run(Config(name=...))).")
    fix_thread_pool_size()
    check_trackers(options.track)
    run = apply_config(run)
    run = replace(run, learner=trace_once(run.learner))
    folder = run_folder(options.root, run.config)
    mirror = open_mirror(folder, options)
    with record_loaded([] if options.fresh else loaded_before(folder)) as loaded:
        check_run(run)
        placement = place_on_devices(run, options)
        with (
            report_disk_errors(folder),
            open_folder(folder, run, options, script, loaded.values()) as changes,
            quiet_orbax(),
        ):
            changes = replace(
                changes, notes=[*map(str, loaded.values()), *unread_notes(run), *changes.notes]
            )
            return _fit(run, placement, options, folder, mirror, changes)


def _fit(
    run: Run,
    placement: Placement,
    options: Options,
    folder: Path,
    mirror: Mirror | None,
    changes: Changes,
) -> Result:
    """Trains a checked run in its open folder, and evaluates it."""
    with ExitStack() as stack:
        checkpoints = _open_checkpoints(stack, run, options, folder, mirror)
        state, patience = _begin(placement, checkpoints, folder)
        start = int(state.step)
        if options.until is not None and options.until <= start < run.config.steps:
            raise Error(
                f"{folder} is at step {start:,} already: choose a later --until, or leave it out."
            )
        finished = start >= run.config.steps or patience.exhausted()
        processes.together(lambda: changes.record(finished))
        _warn_of_code(folder, changes.code_difference, start, finished)
        if finished and any(processes.gather(changes.code_difference)):  # the first one knows
            return recorded_result(folder, state, checkpoints.best())
        write_leaves(folder, state, start=True)
        data = TimedLoader(placement.run.train)
        outputs = open_outputs(folder, run, options, checkpoints, start, lambda: data.seconds)
        stack.push(outputs.close)
        notes = [*thread_pool_notes(), *deterministic_notes(), *changes.notes]
        notes += mesh_notes(placement.abstract(state))
        if not start and not options.quiet:
            notes += _shorter_notes(folder, run)
        for note in (*notes, _where(folder, run, start)):
            outputs.display.note(note)
        evaluation = _evaluation(placement, options, outputs)
        began = time.perf_counter()
        with stop_requests(options.until) as requests:
            state = train(
                placement.learner,
                data,
                state,
                start if patience.exhausted() else run.config.steps,
                _hooks(run, options, outputs, evaluation, patience, requests),
                _training_log(placement, options, outputs, data),
                stop=patience.exhausted,
                several=placement.several,
            )
        seconds = time.perf_counter() - began
        metrics = evaluation.evaluate_all(state)
        checkpoints.wait()
        best = checkpoints.best()
        variables = to_local(run.learner.eval_variables(state))
        scores = run.score(variables) if run.score else {}
        figures = [path for draw in FIGURES for path in draw(run, variables, folder)]
        steps, waited = int(state.step) - start, data.seconds
        result = Result(state, metrics, scores, figures, folder, steps, seconds, waited, best)
        if processes.is_first():
            write_summary(result)
    return result


def _open_checkpoints(
    stack: ExitStack, run: Run, options: Options, folder: Path, mirror: Mirror | None
) -> Checkpoints:
    """The run's checkpoints, which `stack` closes, and with them their copying to a mirror."""
    copying = _begin_copying(mirror, options)
    if copying:
        stack.callback(copying.close)
    on_saved = partial(_after_save, folder, copying)
    checkpoints = Checkpoints(folder / "checkpoints", run.best, options.keep, on_saved=on_saved)
    stack.callback(checkpoints.close)
    return checkpoints


def _begin_copying(mirror: Mirror | None, options: Options) -> BackgroundMirror | None:
    """What copies the run's folder to its mirror, from which an earlier run is moved if --fresh."""
    if mirror and options.fresh:
        mirror.move_aside()
    return BackgroundMirror(mirror) if mirror else None


def _after_save(folder: Path, copying: BackgroundMirror | None, state: State) -> None:
    """Traces a state that was saved, and has it copied to the mirror."""
    write_leaves(folder, state)
    if copying:
        copying.enqueue()


def _warn_of_code(folder: Path, difference: str, start: int, finished: bool) -> None:
    """Warns on stderr, also with --quiet, that the code is not that of the checkpoint.

    A run without one begins with the new code.
    """
    if not difference or not start:
        return
    effect = f"it goes on from step {start:,} with the new code. --fresh trains anew"
    if finished:
        effect = (
            f"nothing was trained, and its numbers are those of step {start:,}. --fresh trains anew"
            " and moves this run aside, another --name keeps both"
        )
    print(f"jdl: {folder} was trained by other code ({difference}): {effect}.", file=sys.stderr)


def _where(folder: Path, run: Run, start: int) -> str:
    """From where to where a run is trained."""
    verb, last = "Resuming" if start else "Training", run.config.steps
    return f"{verb} {folder} from step {start:,} of {last:,}{in_epochs(last, run.train)}"


def _shorter_notes(folder: Path, run: Run) -> list[str]:
    """A note on a finished run with fewer steps, for which a new run may be taken to go on."""
    if (shorter := shorter_run(folder, to_json(run.config))) is None:
        return []
    return [
        f"{shorter} is a finished run of this config with fewer steps. This one begins at step 0; "
        'how to go on from that one: docs/reproducibility.md, "Train a finished run for more steps"'
    ]


def _begin(placement: Placement, checkpoints: Checkpoints, folder: Path) -> tuple[State, Patience]:
    """The state to train from, and that of early stopping: from the newest checkpoint, or new."""
    run = placement.run
    key, example = jax.random.key(run.config.seed), run.train[0]
    patience = Patience(run.best, run.config.patience)
    latest = checkpoints.latest()
    if latest is None:
        return placement.learner.init(key, example), patience
    like = placement.abstract(jax.eval_shape(placement.learner.init, key, example))
    check_fit(folder / "checkpoints" / str(latest), like, OTHER_CODE)
    state, host = checkpoints.restore(like, latest)
    return state, replace(patience, **host["patience"])


def _evaluation(placement: Placement, options: Options, outputs: Outputs) -> Evaluation:
    """The hook that evaluates on the validation and the test set."""
    run, every = placement.run, options.eval_every
    data = {name: split for name, split in splits(run).items() if name != "train"}

    def note(split: str, text: str) -> None:
        outputs.display.note(f"In the evaluation on the {split} data {text}")

    return Evaluation(
        {
            name: evaluator(placement.learner, split, partial(note, name))
            for name, split in data.items()
        },
        default_eval_every(run) if every is None else every,
        run.config.steps,
        outputs,
    )


def _training_log(
    placement: Placement, options: Options, outputs: Outputs, data: TimedLoader
) -> TrainingLog:
    """The log of training metrics, with the handling of steps that are not finite."""

    def begin() -> State:
        return _begin(placement, outputs.checkpoints, outputs.folder)[0]

    nonfinite = NonFiniteSteps(placement, outputs, begin)
    watch = StragglerWatch(lambda: data.seconds, outputs.display.note)
    return TrainingLog(outputs, options.log_every, nonfinite, watch.look)


def _hooks(
    run: Run,
    options: Options,
    outputs: Outputs,
    evaluation: Evaluation,
    patience: Patience,
    requests: StopRequests,
) -> list[StepHook]:
    """The hooks of a run, in the order in which the loop calls them."""
    config, every = run.config, options.save_every
    save_every = default_save_every(config.steps) if every is None else every
    return [
        evaluation,
        SamplePictures(sample_writer(run, outputs.folder), evaluation),
        EarlyStopping(patience, config.check_every, evaluation),
        UserHooks(tuple(run.hooks), patience, outputs),
        Checkpointing(outputs, save_every, config.steps, evaluation, patience, requests),
        Pausing(outputs.checkpoints, config.steps, requests),
    ]
