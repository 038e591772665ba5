"""The report of all sanity checks of a run, before it is trained."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from jdl.inspect.cost import Cost, cost
from jdl.inspect.sanity import columns, labels, outputs, rows, training, training_mode
from jdl.inspect.sanity.finding import Finding, of_exception
from jdl.inspect.sanity.layers import LayerShape, layer_shapes, table
from jdl.inspect.sanity.subject import EARLY, Subject, train_on_one_batch
from jdl.inspect.sanity.training import LayerGradient, layer_gradients
from jdl.run import Run
from jdl.train.check import check_run
from jdl.train.epochs import has_epochs
from jdl.train.placement import apply_config
from jdl.types import Error

STEPS = 100  # on one batch, and on shuffled labels
TIMED = 10  # batches
CHECKS = {
    "initial loss": training.check_first_loss,
    "overfit one batch": training.check_overfit,
    "gradient norms": training.check_gradients,
    "unused parameters": training.check_parameters,
    "dead ReLUs": training.check_relus,
    "activation scale": training.check_activations,
    "output scale": outputs.check_outputs,
    "training mode": training_mode.check_training_mode,
    "unused columns": columns.check_columns,
    "unused features": columns.check_features,
    "batches differ": rows.check_batches,
    "rows independent": rows.check_rows,
    "padding masked": rows.check_padding,
    "causality": rows.check_future,
    "deterministic": rows.check_repeats,
    "label range": labels.check_labels,
    "label as input": rows.check_labels_in_inputs,
    "label leakage": labels.check_label_leakage,
    "shuffled labels": labels.check_shuffled_labels,
}
OF_TROUBLE = ("initial loss", "overfit one batch", "label range")  # where a loss is not finite


@dataclass(frozen=True)
class SanityReport:
    """What the sanity checks of a run found; see `sanity_check`."""

    name: str
    layers: list[LayerShape]
    gradients: list[LayerGradient]
    findings: list[Finding]
    cost: Cost | None
    seconds: float

    @property
    def wrong(self) -> list[Finding]:
        """What is wrong."""
        return [finding for finding in self.findings if finding.verdict == "wrong"]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    def __str__(self) -> str:
        lines = [*table(self.layers), ""]
        if self.gradients:
            width = max(5, *(len(row.layer) for row in self.gradients))
            lines.append(
                f"{'layer':<{width}}  {'gradient':>9}  {'zeros':>6}  {'update/weight':>13}"
            )
            lines += [
                f"{g.layer:<{width}}  {g.norm:>9.2e}  {g.zeros:>6.1%}  "
                + (f"{'-':>13}" if math.isnan(g.update_ratio) else f"{g.update_ratio:>13.1e}")
                for g in self.gradients
            ]
            lines.append("")
        lines += [str(finding) for finding in self.findings if finding.verdict != "n/a"]
        if rest := [f"{f.check} ({f.text})" for f in self.findings if f.verdict == "n/a"]:
            lines.append("n/a    " + "; ".join(rest))
        if self.cost:
            lines += ["", str(self.cost)]
        return "\n".join([*lines, "", self._summary()])

    def _summary(self) -> str:
        counts = {
            verdict: sum(finding.verdict == verdict for finding in self.findings)
            for verdict in ("ok", "wrong", "note", "n/a")
        }
        verdict = "nothing is wrong" if self.sound else f"{counts['wrong']} WRONG"
        return (
            f"{self.name}: {verdict}; {counts['ok']} ok, {counts['note']} to look at, "
            f"{counts['n/a']} not applicable ({self.seconds:.0f} s)"
        )


def sanity_check(run: Run, steps: int = STEPS) -> SanityReport:
    """Sanity check before training (Karpathy, 2019): does this run train, and what is wrong?

    It trains for `steps` steps on one batch, as many on the data and on shuffled labels, and
    evaluates changed batches. Nothing is written, and the run is the same to the bit afterwards.
    """
    if steps < 2 * EARLY:
        raise Error(f"--check-steps must be {2 * EARLY} or more, not {steps}.")
    start, name = time.perf_counter(), run.config.name
    run = apply_config(run)
    try:
        check_run(run)
        subject = train_on_one_batch(run, steps)
        _ = subject.has_rows and subject.evaluated
    except Exception as error:  # of the user's code: anything
        return SanityReport(name, [], [], [_misfit(error)], None, time.perf_counter() - start)
    measured = cost(replace(run, config=replace(run.config, elastic=0)))
    findings = [*examine(subject), check_data_time(run, measured.seconds)]
    seconds = time.perf_counter() - start
    return SanityReport(
        name, layer_shapes(subject), layer_gradients(subject), findings, measured, seconds
    )


def examine(subject: Subject) -> list[Finding]:
    """All findings but those of time; where numbers are not finite, only where that comes from."""
    if subject.trouble and subject.early is subject.start:
        text = "what is not finite hides all else: mend that first"
        first = [_found(name, CHECKS[name], subject) for name in OF_TROUBLE]
        return [*first, Finding("all else", "n/a", text)]
    return [_found(name, check, subject) for name, check in CHECKS.items()]


def _misfit(error: Exception) -> Finding:
    """What keeps a run from its first step, or from its first evaluation."""
    if isinstance(error, Error | FlaxError):
        return Finding("parts fit", "wrong", str(error))
    advice = "Neither would it train: jdl train SCRIPT shows the whole traceback"
    return of_exception("parts fit", "wrong", error, advice)


def _found(name: str, check: Callable[[Subject], Finding], subject: Subject) -> Finding:
    """What a check found, or the exception that the user's code raised in it."""
    try:
        return check(subject)
    except Exception as error:
        advice = "The run's own batches pass; what this check makes of them does not: docs/check.md"
        return of_exception(name, "note", error, advice)


def check_data_time(run: Run, step_seconds: float) -> Finding:
    """The time of a batch, split into making its data and the training step."""
    if not has_epochs(run.train):
        return Finding("data loading", "n/a", training.NO_DATA)
    make, seconds = jax.jit(run.train.batch), []
    batches = run.train.read()
    for i in range(TIMED + 1):
        start = time.perf_counter()
        jax.block_until_ready(make(next(batches), jnp.int32(i)))
        seconds.append(time.perf_counter() - start)
    data = statistics.median(seconds[1:])
    text = f"a batch takes {1e3 * data:.2f} ms to make, and {1e3 * step_seconds:.2f} ms to train on"
    if data > step_seconds:
        advice = "The data are slower than the training: decode once (files), augment less"
        return Finding("data loading", "note", text, advice)
    return Finding("data loading", "ok", text)
