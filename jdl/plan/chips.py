"""Accelerators by their public figures, and the topologies in which they can be had."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jdl.types import Error

TPU_V4 = "a guess: the most of a TPU v4, by Jouppi et al., 2023"
SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")


@dataclass(frozen=True)
class Chip:
    """An accelerator: its peak FLOP/s, memory in bytes, bytes/s, and watts."""

    name: str
    peak: float  # FLOP/s of products in bfloat16, with sums in float32
    memory: float  # bytes that a program may use: of a TPU, what its compiler says when it refuses
    bandwidth: float  # bytes/s of its memory (HBM)
    wire: float  # bytes/s that it sends to others in one collective
    watts: float
    watts_source: str
    shapes: tuple[str, ...]  # in which it can be had
    is_tpu: bool = True
    float32: str = "bfloat16"  # the type in which products of float32 are computed by default

    def peak_in(self, precision: str) -> tuple[float, str]:
        """FLOP/s of products in a config's precision, and the type that computes them."""
        if precision != "float32":
            return self.peak, precision
        return (self.peak / 2 if self.float32 == "TF32" else self.peak), self.float32


def gpu(name: str, peak: float, memory: float, bandwidth: float, wire: float, watts: float) -> Chip:
    """A GPU by NVIDIA's data sheet, up to 8 in a server; TF32 has half of bfloat16's peak."""
    source = "by NVIDIA's data sheet"
    return Chip(
        name, peak, memory, bandwidth, wire, watts, source, ("1", "2", "4", "8"), False, "TF32"
    )


# A collective runs as a ring along one axis of the torus, in both directions: two of a TPU's links.
CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, 15.75 * 2**30, 819e9, 2 * 45e9, 192, TPU_V4, SQUARES),
    "v5p": Chip("TPU v5p", 459e12, 95.74 * 2**30, 2_765e9, 2 * 90e9, 192, TPU_V4, CUBES),
    "v6e": Chip("TPU v6e", 918e12, 31.25 * 2**30, 1_640e9, 2 * 90e9, 192, TPU_V4, SQUARES),
    "a100": gpu("A100 SXM 80 GB", 312e12, 80e9, 2_039e9, 300e9, 400),
    "h100": gpu("H100 SXM", 990e12, 80e9, 3_350e9, 450e9, 700),
    "h200": gpu("H200 SXM", 990e12, 141e9, 4_800e9, 450e9, 700),
    "b200": gpu("B200 (HGX)", 2_250e12, 180e9, 7_700e9, 900e9, 1_000),
}
MOST_SIMULATED = 512


@dataclass(frozen=True)
class Topology:
    """The devices to plan for: chips in a shape, such as v5e:4x8, or simulated ones, cpu:8."""

    kind: str
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def chip(self) -> Chip | None:
        """The figures of one; None for a CPU, which has no public ones."""
        return CHIPS.get(self.kind)

    @property
    def is_tpu(self) -> bool:
        """Whether libtpu compiles for it."""
        return self.chip is not None and self.chip.is_tpu

    @property
    def is_gpu(self) -> bool:
        """Whether it is a server of NVIDIA's GPUs."""
        return self.chip is not None and not self.chip.is_tpu

    def __str__(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"


def parse_topology(text: str) -> Topology:
    """The topology of --topology. Raises `Error`, with those that can be had, for any other."""
    kind, _, shape = text.partition(":")
    if kind == "cpu" and shape.isdecimal() and 1 <= int(shape) <= MOST_SIMULATED:
        return Topology(kind, (int(shape),))
    if kind == "cpu":
        raise Error(
            f"cpu takes a number of simulated devices, cpu:1 to cpu:{MOST_SIMULATED}, not {text!r}."
        )
    if kind not in CHIPS:
        known = ", ".join(f"{name}:{chip.shapes[-1]}" for name, chip in CHIPS.items())
        raise Error(f"There is no topology {text!r}: take one like {known} or cpu:8.")
    shapes = CHIPS[kind].shapes
    if shape not in shapes:
        of = "a slice" if CHIPS[kind].is_tpu else "a server"
        raise Error(
            f"There is no {text!r}: {of} of {CHIPS[kind].name}s has {', '.join(shapes)} chips, "
            f"as in {kind}:{shapes[-1]}."
        )
    return Topology(kind, tuple(map(int, shape.split("x"))))
