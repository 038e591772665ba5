"""The predicted time of a step (a roofline model): the longest of arithmetic, memory and wire."""

from __future__ import annotations

from dataclasses import dataclass

from jdl.plan.chips import Chip

PARTS = ("arithmetic", "memory", "wire")


@dataclass(frozen=True)
class StepTime:
    """The seconds that each part of a step takes at best, on one chip at its public figures.

    The roofline model (Williams et al., 2009): were the parts done at the same time and each at its
    peak, the longest would be the step's. So it is a bound and no promise.
    """

    arithmetic: float
    memory: float
    wire: float

    @property
    def seconds(self) -> float:
        """The step's: the longest part."""
        return max(self.arithmetic, self.memory, self.wire)

    @property
    def bound(self) -> str:
        """The name of the longest part."""
        return max(PARTS, key=lambda name: getattr(self, name))


def step_time(chip: Chip, operations: float, traffic: float, wire: float) -> StepTime:
    """The time of FLOPs, of bytes to and from memory, and of bytes sent, all of one chip."""
    return StepTime(operations / chip.peak, traffic / chip.bandwidth, wire / chip.wire)
