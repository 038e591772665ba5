"""What runs cost: time, device hours, operations, and an estimate of the energy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jdl.report.document import Section, Table, counted
from jdl.report.groups import Group, RunFacts
from jdl.report.rebuilt import Rebuilt
from jdl.store.times import recorded_times
from jdl.types import Error

CPU_CORE_WATTS = 10.0  # a core of a server with its share of memory and power supply
BOARD_WATTS = {  # the highest power of a board, by a word of the device's name
    "H200": 700,
    "H100": 700,
    "A100": 400,
    "V100": 300,
    "L40S": 350,
    "L40": 300,
    "L4": 72,
    "T4": 70,
}


@dataclass(frozen=True)
class RunCost:
    """The cost of a run as its folder has it; None is unknown."""

    seconds: float | None  # of all processes that trained the run
    waited: float | None  # the part of it in which the loop waited for data
    timed: int  # the steps of this time
    devices: int
    operations: float | None  # FLOPs of all steps of the run
    rate: float | None  # FLOPs of a second
    watts: float | None  # of all devices together

    @property
    def device_hours(self) -> float | None:
        """Hours times devices."""
        return None if self.seconds is None else self.seconds * self.devices / 3600

    @property
    def kilowatt_hours(self) -> float | None:
        """The estimated energy, as if the devices drew their power all the time."""
        if self.seconds is None or self.watts is None:
            return None
        return self.seconds * self.watts / 3.6e6


def run_cost(run: RunFacts, step_operations: int | None, watts: float | None = None) -> RunCost:
    """The cost of a run; `watts` of one device replaces what is assumed of it."""
    seconds, waited = (_number(run.summary.get(name)) for name in ("seconds", "data_seconds"))
    timed = run.step if seconds is not None else 0
    if times := recorded_times(run.folder):
        seconds, waited, timed = times.seconds, times.data_seconds, times.steps
    devices = devices_of(run.record)
    power = _watts(run.record, devices) if watts is None else watts * devices
    total = rate = None
    if step_operations is not None:
        total = float(step_operations) * run.step
        rate = float(step_operations) * timed / seconds if seconds else None
    return RunCost(seconds, waited, timed, devices, total, rate, power)


def devices_of(record: Mapping[str, Any]) -> int:
    """The number of devices that a run was trained on, by its options."""
    options, found = record["options"], record["environment"].get("devices") or {}
    if options.get("mesh"):
        return math.prod(int(axis.partition("=")[2]) for axis in options["mesh"].split(","))
    if options.get("devices"):
        return int(options["devices"])
    host = record["environment"].get("host") or {}
    if options.get("parallel") == "pmap" or host.get("processes", 1) > 1:
        return int(found.get("count", 1))
    return 1


def _watts(record: Mapping[str, Any], devices: int) -> float | None:
    environment = record["environment"]
    kind = str((environment.get("devices") or {}).get("kind", ""))
    if kind == "cpu":
        cores = (environment.get("host") or {}).get("cores")
        return CPU_CORE_WATTS * cores if cores else None  # devices of a CPU share its cores
    words = re.findall(r"\w+", kind)  # an RTX A1000 is no A100
    board = next((watts for name, watts in BOARD_WATTS.items() if name in words), None)
    return None if board is None else float(board * devices)


def check_watts(watts: float | None) -> None:
    """Raises `Error` for a power that there is not."""
    if watts is not None and not 0 < watts < math.inf:
        raise Error(f"--watts is the power of one device, a number above 0, not {watts}.")


def costs(
    groups: Sequence[Group], rebuilt: Mapping[str, Rebuilt], watts: float | None = None
) -> Section:
    """The section of the cost."""
    rows, every, partly = [], list[RunCost](), 0
    for group in groups:
        step = rebuilt[group.name].operations if group.name in rebuilt else None
        found = [run_cost(run, step, watts) for run in group.runs]
        rows.append(_row(group, found))
        every += found
        partly += sum(0 < one.timed < run.step for one, run in zip(found, group.runs, strict=True))
    unknown = sum(one.seconds is None for one in every)
    sentences = _totals(every)
    if unknown:
        sentences.append(
            f"{unknown:,} of {len(every):,} runs have no recorded time: it is written with each "
            "checkpoint."
        )
    if partly:
        sentences.append(
            f"Of {counted(partly, 'run')} the time of some steps is not recorded: a process was "
            "killed after its last checkpoint, or an older jdl trained them."
        )
    if any(one.kilowatt_hours is not None for one in every):
        sentences.append(_assumption(watts))
    head = ["config", "time of a run", "waiting for data", "devices", "device hours"]
    head += ["operations of a run", "rate", "energy"]
    return Section("Cost", sentences, [Table(head, rows, "Cost, by config")])


def _row(group: Group, found: Sequence[RunCost]) -> list[str]:
    seconds = [one.seconds for one in found if one.seconds is not None]
    waited = [one.waited for one in found if one.waited is not None]
    mean = sum(seconds) / len(seconds) if seconds else None
    counted = [one.operations for one in found if one.operations is not None]
    operations = sum(counted) / len(counted) if counted else None
    done = [(one.rate, one.seconds) for one in found if one.rate and one.seconds]
    rate = sum(r * s for r, s in done) / sum(s for _, s in done) if done else None
    return [
        group.name,
        duration(mean),
        f"{sum(waited) / sum(seconds):.2%}" if waited and sum(seconds) else "–",
        f"{max(one.devices for one in found)} {_kind(group)}".strip(),
        _sum([one.device_hours for one in found], "{:.3g}"),
        quantity(operations, "FLOP"),
        quantity(rate, "FLOP/s"),
        energy([one.kilowatt_hours for one in found]),
    ]


def _totals(found: Sequence[RunCost]) -> list[str]:
    known = [one.seconds for one in found if one.seconds is not None]
    if not known:
        return []
    hours = _sum([one.device_hours for one in found], "{:.3g}")
    runs = counted(len(known), "run")
    text = f"{duration(sum(known))} of training in {runs}, {hours} device hours"
    power = energy([one.kilowatt_hours for one in found])
    return [f"{text}, about {power}." if power != "–" else f"{text}."]


def _assumption(watts: float | None) -> str:
    if watts is not None:
        return f"The energy is an estimate: {watts:g} W for each device (--watts), all the time."
    boards = ", ".join(f"{name} {power}" for name, power in BOARD_WATTS.items())
    return (
        f"The energy is an estimate, not a measurement: {CPU_CORE_WATTS:g} W for each core of a "
        f"CPU, the highest power of a GPU's board in watts ({boards}), all the time and without "
        "cooling; --watts gives another power of a device."
    )


def _kind(group: Group) -> str:
    return str((group.first.record["environment"].get("devices") or {}).get("kind", ""))


def _sum(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(sum(known)) if known else "–"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def duration(seconds: float | None) -> str:
    """A time in words: 35 s, 12 min, 3.4 h."""
    if seconds is None:
        return "–"
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def energy(kilowatt_hours: Sequence[float | None]) -> str:
    """A sum of energies in Wh or kWh."""
    known = [value for value in kilowatt_hours if value is not None]
    total = sum(known)
    if not known:
        return "–"
    return f"{total:.3g} kWh" if total >= 1 else f"{1000 * total:.3g} Wh"


def quantity(value: float | None, unit: str) -> str:
    """A number with its SI prefix, as 3.1 TFLOP."""
    if value is None:
        return "–"
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
