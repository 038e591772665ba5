"""The roofline of a step (Williams et al., 2009): is its limit the arithmetic or the memory?"""

from __future__ import annotations

import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jdl.inspect.cost import ROUNDS, peak_rate, rate_lines

SUMMED = {"cpu": 2**24, "gpu": 2**28, "tpu": 2**28}  # numbers in arrays that measure the bandwidth


@dataclass(frozen=True)
class Roofline:
    """A step on one device beside what the device can do at best."""

    operations: int  # FLOPs of matrix products and convolutions in a step
    moved: int  # bytes that its operations read and write
    seconds: float
    peak: float  # FLOP/s of a large matrix product
    bandwidth: float  # bytes/s of a sum of two large arrays

    @property
    def intensity(self) -> float:
        """FLOPs for each byte."""
        return self.operations / max(self.moved, 1)

    @property
    def ridge(self) -> float:
        """The intensity below which the memory is the limit, and above which the arithmetic."""
        return self.peak / self.bandwidth

    @property
    def at_best(self) -> float:
        """The seconds that a step would take at the peak rate or at the full bandwidth."""
        return max(self.operations / self.peak, self.moved / self.bandwidth)

    @property
    def bound(self) -> str:
        """What limits the step, by this estimate."""
        if self.moved / self.seconds > self.bandwidth:
            return "unknown: caches serve much of these bytes"
        word = "compute" if self.intensity > self.ridge else "memory"
        return f"{word}-bound, ridge point {self.ridge:,.1f}"

    def __str__(self) -> str:
        rate = self.moved / self.seconds
        share = 100 * rate / self.bandwidth
        return "\n".join(
            [
                *rate_lines(self.operations, self.seconds, self.peak),
                f"{'bytes read and written':<28}{self.moved / 2**20:>10,.1f} MiB",
                f"{'bandwidth':<28}{rate / 1e9:>10,.1f} GB/s, {share:.1f}% of the "
                f"{self.bandwidth / 1e9:,.0f} of a sum of two large arrays",
                f"{'arithmetic intensity':<28}{self.intensity:>10,.1f} FLOP a byte: {self.bound}",
                f"{'roofline bound':<28}{1e3 * self.at_best:>10,.2f} ms a step",
            ]
        )


def bandwidth() -> float:
    """The bytes a second of the memory of one device, measured by a sum of two large arrays."""
    size = SUMMED.get(jax.default_backend(), 2**24)
    a, b = (jax.device_put(jnp.ones(size, jnp.float32), jax.devices()[0]) for _ in range(2))
    # Donated: a new array in each round would measure how fast the system hands out memory.
    add, seconds = jax.jit(jnp.add, donate_argnums=0), []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        a = add(a, b).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 3 * a.nbytes / min(seconds)


def roofline(operations: int, moved: int, seconds: float, precision: str) -> Roofline:
    """The roofline of a step on this machine's device, whose limits are measured now."""
    return Roofline(operations, moved, seconds, peak_rate(precision), bandwidth())
