"""A plan: memory, collectives, time and energy of a training on chips that are not here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jdl.figures.memory import draw_memory, unit_of
from jdl.inspect.hlo import read
from jdl.inspect.traffic import kernels, traffic
from jdl.plan.chips import Chip, parse_topology
from jdl.plan.collectives import Collective, collectives
from jdl.plan.devices import build_mesh, mesh_text
from jdl.plan.estimate import LAUNCH, PARTS, StepTime, step_time
from jdl.plan.step import Memory, compile_step
from jdl.plan.units import amount, lasting, short
from jdl.run import Run
from jdl.train.placement import apply_config
from jdl.types import Error

NOTE = """\
The time is computed, not measured: arithmetic and memory one after the other, at the chip's public
figures, and the rest beside. On GPUs real steps took 0.5 to 3 times as long, and on TPUs none was
measured. Rank plans by it, and measure before you pay."""
QUICK = "--quick: memory is approximate; its traffic and the time of that are too large"
STAND_IN = """\
The compiler for this GPU is not installed (pip install 'jdl[gpu]': it needs no GPU). Memory,
traffic and collectives are those of a compile for simulated CPU devices, where half precision takes
as much as float32, attention holds its weights, random numbers are drawn in loops, and there are
all-reduces in place of reduce-scatters. The time is computed from these."""


@dataclass(frozen=True)
class Plan:
    """What a training would take on a topology; see `plan`."""

    name: str
    topology: str
    mesh: str
    chips: int
    chip: Chip | None  # its public figures; None for a CPU
    memory: Memory  # of one chip
    capacity: float | None  # bytes of a chip that a program may use
    operations: int  # FLOPs of a step, each counted once
    shares: int  # among which the mesh divides them: fewer than the chips where some do the same
    precision: str  # of the config
    traffic: int  # bytes to and from a chip's memory in a step
    kernels: int | None  # that the host of a GPU starts in a step; None without its compiler
    collectives: list[Collective]
    time: StepTime | None
    steps: int
    items: int  # tokens or examples of a step
    item: str
    compile_seconds: float
    text: str  # the compiled program
    quick: bool = False  # compiled with little effort
    stand_in: bool = False  # it is one of simulated CPU devices, in place of a GPU's
    change: str = ""  # what was changed to make it fit

    @property
    def fits(self) -> bool:
        """Whether a chip has the memory: of a TPU, whether its compiler took the step."""
        if not self.text or (self.chip and self.chip.is_tpu):
            return bool(self.text)
        return self.capacity is None or self.memory.total <= self.capacity

    @property
    def wire(self) -> int:
        """The bytes that a chip sends to others in a step."""
        return sum(one.wire for one in self.collectives)

    @property
    def run_seconds(self) -> float | None:
        """The time of all steps; None without figures of the chip."""
        return self.steps * self.time.seconds if self.time else None

    @property
    def kwh(self) -> float | None:
        """The energy of all steps on all chips; None without figures of the chip."""
        if self.run_seconds is None or self.chip is None:
            return None
        return self.run_seconds * self.chips * self.chip.watts / 3.6e6

    @property
    def label(self) -> str:
        """The mesh, and what was changed."""
        return f"{self.mesh}, {self.change}" if self.change else self.mesh

    def to_json(self) -> dict[str, Any]:
        """All but the compiled program, as a JSON object."""
        values = {name: v for name, v in asdict(replace(self, text="")).items() if name != "text"}
        values["memory"] |= {"arguments": self.memory.arguments, "total": self.memory.total}
        values |= {"fits": self.fits, "wire": self.wire}
        if self.time:
            values["time"] |= {"seconds": self.time.seconds, "bound": self.time.bound}
            values["run_seconds"] = self.run_seconds
            values["kwh"] = self.kwh
        return values

    def draw(self, path: Path) -> None:
        """Draws the memory of a chip by part as a PNG."""
        draw_memory(
            f"{self.name} on {self.topology}",
            {self.label: self.memory.parts()},
            self.capacity,
            path,
        )

    def __str__(self) -> str:
        s = "" if self.chips == 1 else "s"
        kind = f"chip{s} of {self.chip.name}" if self.chip else f"simulated CPU device{s}"
        lines = [
            f"{self.name} on {self.topology} ({self.chips} {kind}), mesh {self.label}",
            f"compiled in {self.compile_seconds:.1f} s; nothing was run",
            *([QUICK] if self.quick else []),
        ]
        lines += ["", *self._memory_lines()]
        lines += ["", *self._collective_lines()] if self.text else []
        if self.time and self.text:
            lines += ["", *self._time_lines(self.time)]
        elif self.text:
            lines += [
                "",
                f"one step: {amount(self.operations, 'FLOP')}, divided among {self.shares}; "
                "there are no public figures of this CPU, so no time",
            ]
        if self.text and self.shares < self.chips:
            lines += ["", self._same_work()]
        if self.stand_in:
            lines += ["", STAND_IN]
        return "\n".join(lines)

    def _same_work(self) -> str:
        return (
            f'WARNING: the axis "model" divides no parameter of this model: {self.chips} chips do '
            f"the arithmetic of {self.shares}, the others the same again."
        )

    def _memory_lines(self) -> list[str]:
        parts = {**self.memory.parts(), "together": self.memory.total}
        notes = {
            "other state": "BatchNorm statistics, averaged parameters, ...",
            "data": "the batch, or a dataset that stays on the chip; and all padding",
            "temporaries": "activations, gradients, gathered parameters, workspace",
        }
        unit, size = unit_of(self.memory.total)
        lines = [f"{'memory of one chip':<26}{unit:>9}"]
        lines += [
            f"  {name:<24}{count / size:>9,.2f}   {notes.get(name, '')}".rstrip()
            for name, count in parts.items()
        ]
        if self.capacity:
            share = self.memory.total / self.capacity
            verdict = f"it fits: {share:.1%}" if self.fits else f"IT DOES NOT FIT: {share:.0%}"
            lines.append(f"  {verdict} of the {self.capacity / 1e9:.1f} GB that a program may use")
        return lines

    def _collective_lines(self) -> list[str]:
        if not self.collectives:
            return ["between the chips: nothing is sent"]
        lines = [f"{'between the chips, a step':<26}{'times':>9}{'bytes':>10}   type"]
        for one in self.collectives:
            loop = ", in a loop" if one.loop else ""
            lines.append(
                f"  {one.kind + f' over {one.group}':<24}{one.count:>9,}"
                f"{amount(one.nbytes, 'B'):>10}   {one.dtype}{loop}"
            )
        return [*lines, f"  sent by one chip{'':>17}{amount(self.wire, 'B'):>10}"]

    def _time_lines(self, time: StepTime) -> list[str]:
        assert self.chip
        assert self.run_seconds is not None
        peak, dtype = self.chip.peak_in(self.precision)
        flops = amount(self.operations / self.shares, "FLOP")
        work = {
            "arithmetic": f"{flops} at {amount(peak, 'FLOP')}/s in {dtype}",
            "memory": f"{amount(self.traffic, 'B')} at {amount(self.chip.bandwidth, 'B')}/s",
            "interconnect": f"{amount(self.wire, 'B')} at {amount(self.chip.wire, 'B')}/s",
            "dispatch": "by the host; assumed"
            if self.kernels is None
            else f"by the host, of {self.kernels:,} kernels at {short(LAUNCH)}",
        }
        lines = [
            f"{'one step, estimated':<26}{'time':>9}   what one chip does, at its public figure"
        ]
        for name in PARTS:
            bound = "   <- bounds it" if name == time.bound else ""
            lines.append(f"  {name:<24}{short(getattr(time, name)):>9}   {work[name]}{bound}")
        lines += [
            f"  {'together':<24}{short(time.seconds):>9}   arithmetic + memory, or what is longer",
            f"  {'speed':<24}{amount(self.items / time.seconds, ''):>9}   {self.item} a second",
            f"  {'the run':<24}{lasting(self.run_seconds):>9}   {self.steps:,} steps",
            f"  {'energy':<24}{self.kwh:>9.3g}   kWh of {self.chip.watts:.0f} W a chip, without "
            "cooling and hosts",
            f"  {'':<24}{'':>9}   (watts: {self.chip.watts_source})",
        ]
        return [*lines, *NOTE.splitlines()]


def plan(
    run: Run, topology: str, mesh: str = "", watts: float | None = None, quick: bool = False
) -> Plan:
    """Plans a run: its own step, compiled ahead of time by the compiler of a topology.

    `topology` is like v5e:4x8, v5p:2x2x4, v6e:8x8 (TPUs, by libtpu), h100:8 (GPUs, by JAX's plugin
    for them, or else simulated) or cpu:8 (simulated devices), and `mesh` like data=8,fsdp=4; by
    default it is all data. `watts` of a chip are for the energy. With `quick` the compiler for TPUs
    takes half the time, and makes a program that moves more through memory. Nothing is run or
    written. Raises `Error`, before anything is compiled, for a topology that there is not, a mesh
    that has not its chips, watts that are no positive number, `quick` for other than TPUs, and an
    elastic run.
    """
    if watts is not None and not (math.isfinite(watts) and watts > 0):
        raise Error(f"--watts must be a positive number, not {watts:g}.")
    where = parse_topology(topology)
    if quick and not where.is_tpu:
        raise Error(f"--quick is for TPUs, whose compiler is slow: drop it for {where}.")
    chip = where.chip
    if chip and watts is not None:
        chip = replace(chip, watts=watts, watts_source="as given")
    grid = build_mesh(where, mesh)
    step = compile_step(apply_config(run), grid, quick)
    program = read(step.text)
    found, moved = collectives(program), traffic(program)
    items, item = _items(run)
    precision = run.config.precision
    wire, started = sum(one.wire for one in found), None
    if step.platform == "gpu":
        started = kernels(program)
    work = (precision, step.operations / step.shares, moved, wire, started)
    return Plan(
        name=run.config.name,
        topology=str(where),
        mesh=mesh_text(dict(grid.shape)),
        chips=where.chips,
        chip=chip,
        memory=step.memory,
        capacity=step.capacity or (chip.memory if chip else None),
        operations=step.operations,
        shares=step.shares,
        precision=precision,
        traffic=moved,
        kernels=started,
        collectives=found,
        time=step_time(chip, *work) if chip and step.text else None,
        steps=run.config.steps,
        items=items,
        item=item,
        compile_seconds=step.seconds,
        text=step.text,
        quick=quick,
        stand_in=where.is_gpu and step.platform == "cpu",
    )


def _items(run: Run) -> tuple[int, str]:
    """How many tokens a step sees, or how many examples where the data are no tokens."""
    x: Any = run.train.spec.get("x")
    if run.tokenizer is not None and x is not None and jnp.issubdtype(x.dtype, jnp.integer):
        return x.size, "tokens"
    return run.train.batch_size, "examples"
