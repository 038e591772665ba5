"""The report of all sanity checks of a run, before it is trained."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from jdl.inspect.cost import Cost, cost
from jdl.inspect.sanity import labels, rows, training
from jdl.inspect.sanity.finding import Finding
from jdl.inspect.sanity.layers import LayerShape, layer_shapes, table
from jdl.inspect.sanity.subject import EARLY, Subject, train_on_one_batch
from jdl.inspect.sanity.training import LayerGradient, layer_gradients
from jdl.train.check import check_run
from jdl.train.epochs import has_epochs
from jdl.train.placement import apply_config
from jdl.types import Error, Run

STEPS = 100  # on one batch, and on shuffled labels
TIMED = 10  # batches
CHECKS = (
    training.check_first_loss,
    training.check_overfit,
    training.check_gradients,
    training.check_parameters,
    training.check_relus,
    training.check_activations,
    rows.check_columns,
    rows.check_features,
    rows.check_rows,
    rows.check_padding,
    rows.check_future,
    rows.check_repeats,
    labels.check_labels,
    rows.check_labels_in_inputs,
    labels.check_label_leakage,
    labels.check_shuffled_labels,
)


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
                f"{g.layer:<{width}}  {g.norm:>9.2e}  {g.zeros:>6.1%}  {g.update_ratio:>13.1e}"
                for g in self.gradients
            ]
            lines.append("")
        lines += map(str, self.findings)
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
            f"{counts['n/a']} do not apply ({self.seconds:.0f} s)"
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
        if subject.has_rows:
            subject.evaluate(subject.batch)
    except (Error, FlaxError) as error:
        finding = Finding("parts fit", "wrong", str(error))
        return SanityReport(name, [], [], [finding], None, time.perf_counter() - start)
    measured = cost(replace(run, config=replace(run.config, elastic=0)))
    findings = [*examine(subject), check_data_time(run, measured.seconds)]
    seconds = time.perf_counter() - start
    return SanityReport(
        name, layer_shapes(subject), layer_gradients(subject), findings, measured, seconds
    )


def examine(subject: Subject) -> list[Finding]:
    """All findings but those of time; where numbers are not finite, only where that comes from."""
    if subject.trouble and EARLY not in subject.states:
        text = "what is not finite hides all else: mend that first"
        first = [training.check_first_loss(subject), training.check_overfit(subject)]
        return [*first, Finding("all else", "n/a", text)]
    return [check(subject) for check in CHECKS]


def check_data_time(run: Run, step_seconds: float) -> Finding:
    """The time of a batch, split into making its data and the training step."""
    if not has_epochs(run.train):
        return Finding("data time", "n/a", training.NO_DATA)
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
        return Finding("data time", "note", text, advice)
    return Finding("data time", "ok", text)
