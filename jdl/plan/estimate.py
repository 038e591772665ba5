"""The predicted time of a step (a roofline model): the longest of its parts."""

from __future__ import annotations

from dataclasses import dataclass

from jdl.plan.chips import Chip

PARTS = ("arithmetic", "memory", "interconnect", "dispatch")
DISPATCH = 3e-4  # seconds: assumed, not measured on a TPU or by a data sheet


@dataclass(frozen=True)
class StepTime:
    """The seconds that each part of a step takes, on one chip at its public figures.

    The roofline model (Williams et al., 2009): were the parts done at the same time and each at its
    peak, the longest would be the step's. The dispatch by the host is assumed.
    """

    arithmetic: float
    memory: float
    interconnect: float
    dispatch: float = DISPATCH

    @property
    def seconds(self) -> float:
        """The step's: the longest part."""
        return max(getattr(self, name) for name in PARTS)

    @property
    def bound(self) -> str:
        """The name of the longest part."""
        return max(PARTS, key=lambda name: getattr(self, name))


def step_time(
    chip: Chip, precision: str, operations: float, traffic: float, wire: float
) -> StepTime:
    """The time of FLOPs, of bytes to and from memory, and of bytes sent, all of one chip."""
    peak, _ = chip.peak_in(precision)
    return StepTime(operations / peak, traffic / chip.bandwidth, wire / chip.wire)
