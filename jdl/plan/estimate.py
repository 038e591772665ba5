"""The predicted time of a step, from its parts: a roofline model."""

from __future__ import annotations

from dataclasses import dataclass

from jdl.plan.chips import Chip

PARTS = ("arithmetic", "memory", "interconnect", "dispatch")
DISPATCH = 3e-4  # seconds: assumed, not measured on a TPU or by a data sheet
LAUNCH = 3.5e-6  # seconds: of a GPU's kernel, as small models on an H200 took (docs/plan.md)


@dataclass(frozen=True)
class StepTime:
    """The seconds that each part of a step takes, on one chip at its public figures.

    The roofline model (Williams et al., 2009) takes the longer of arithmetic and memory for each
    kernel. Here both are known for the whole step, whose kernels follow each other and are mostly
    bound by one of the two: so they are added up. Collectives run beside, and so does the dispatch
    by the host: of a program on a TPU (assumed), of each kernel on a GPU.
    """

    arithmetic: float
    memory: float
    interconnect: float
    dispatch: float

    @property
    def seconds(self) -> float:
        """The step's: arithmetic and memory together, or another part where it takes longer."""
        return max(self.arithmetic + self.memory, self.interconnect, self.dispatch)

    @property
    def bound(self) -> str:
        """The part to make shorter first; where arithmetic and memory bound, their longer one."""
        if self.arithmetic + self.memory >= max(self.interconnect, self.dispatch):
            return "arithmetic" if self.arithmetic >= self.memory else "memory"
        return "interconnect" if self.interconnect >= self.dispatch else "dispatch"


def step_time(
    chip: Chip, precision: str, operations: float, traffic: float, wire: float, kernels: int | None
) -> StepTime:
    """The time of FLOPs, of bytes to and from memory, and of bytes sent, all of one chip.

    `kernels` are those that a GPU's host starts one by one; None where a program is started whole.
    """
    peak, _ = chip.peak_in(precision)
    dispatch = DISPATCH if kernels is None else kernels * LAUNCH
    return StepTime(operations / peak, traffic / chip.bandwidth, wire / chip.wire, dispatch)
