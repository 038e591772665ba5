"""Handling of a step whose loss, gradient or parameters are NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax

from jdl.train.loop import steps
from jdl.train.nan_trace import OF_DATA, nan_trace
from jdl.train.outputs import Outputs
from jdl.train.placement import Placement
from jdl.types import Error, State

REMEDIES = (
    " Usual remedies: a smaller learning rate, gradient clipping (jdl.optim.clip_gradients), or "
    "--on-nonfinite skip, which skips such steps."
)


class NonFiniteError(Error):
    """The loss, the gradient or the parameters of a step are NaN or infinite."""

    code = 3


@dataclass(frozen=True)
class NonFiniteSteps:
    """Reports a step that was skipped, or ends the run with a NaN trace of the step."""

    placement: Placement
    outputs: Outputs
    begin: Callable[[], State]  # the state of the newest checkpoint, or the initial one

    def __call__(self, step: int, name: str, value: float) -> None:
        """Raises `NonFiniteError`; with --on-nonfinite skip, only prints a note."""
        if self.placement.run.config.on_nonfinite == "skip":
            self.outputs.display.note(
                f"Step {step:>7,}  its {name} is {value}: the step is skipped"
            )
            return
        self.outputs.checkpoints.wait()
        saved = self.outputs.checkpoints.latest()
        kept = (
            "no checkpoint was saved before it"
            if saved is None
            else f"the checkpoint of step {saved} is kept"
        )
        trace = self.trace(step)
        raise NonFiniteError(
            f"The {name} of step {step} is {value}, and the run has stopped; {kept}. {trace}."
            f"{'' if any(words in trace for words in OF_DATA) else REMEDIES}"
        )

    def trace(self, step: int) -> str:
        """The NaN trace of a step, after repeating the run up to it from its newest checkpoint."""
        if jax.process_count() > 1:
            return "Run the same command in one process to trace where in the model it arose"
        run, state = self.placement.run, self.begin()
        start = int(state.step)
        self.outputs.display.note(
            f"Step {step:>7,}  not finite: repeating from step {start:,} to trace it"
        )
        for _, new, _ in steps(self.placement.learner, run.train, state, until=step - 1):
            state = new
        return nan_trace(run.learner, state, run.train[step - 1])
