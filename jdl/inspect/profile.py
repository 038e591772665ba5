"""A profile of training: which layers, operations and lines of code take the time of a step."""

from __future__ import annotations

import gzip
import json
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from jdl.config import Options
from jdl.inspect.cost import operations
from jdl.inspect.hlo import read
from jdl.inspect.roofline import Roofline, roofline
from jdl.inspect.source_lines import Origin, origins
from jdl.inspect.traffic import traffic
from jdl.learners.compilation import jax_setting
from jdl.objectives.pretrained_model import leave_fresh
from jdl.run import Run
from jdl.store.folder import write_atomically
from jdl.train.placement import place_on_devices
from jdl.types import Error, State

WARM_UP = 2  # steps that are not measured: the first allocate memory
ROWS = 10  # of each table
DEPTH = 3  # of the layers in the first table: GPT/stack/block_3
NUMBER = re.compile(r"_\d+")  # of one of several equal layers
METADATA_IN_KEY = "jax_compilation_cache_include_metadata_in_key"  # of the compilation cache
CHATTER = ("end: ", "Threadpool", "Thunk")  # events of XLA's own bookkeeping


@dataclass(frozen=True)
class OperationTime:
    """What an operation takes in a step, summed over threads and devices."""

    origin: Origin  # its layer, the pass, and its line of code
    seconds: float
    times: float


@dataclass(frozen=True)
class Profile:
    """A profile of training steps; see `profile`."""

    name: str
    steps: int
    devices: int
    seconds: float  # of a step, the median
    data_seconds: float  # of which the loop waited for data, the median
    operations: list[OperationTime]  # the costliest first
    roofline: Roofline
    trace: Path

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.name}, {self.steps} steps, {self.devices} x {jax.devices()[0].device_kind}",
                "",
                f"{'step time (median)':<28}{1e3 * self.seconds:>10,.2f} ms",
                f"{'  waiting for data':<28}{1e3 * self.data_seconds:>10,.2f} ms",
                str(self.roofline),
                "",
                f"all operations, over threads and devices: {1e3 * self.busy:,.2f} ms a step",
                *self._layers(),
                "",
                *self._costliest(),
                "",
                f"{self.trace}: open it at ui.perfetto.dev",
            ]
        )

    @property
    def busy(self) -> float:
        """The seconds of all operations of a step, summed over threads and devices."""
        return sum(part.seconds for part in self.operations)

    def by_layer(self) -> list[tuple[str, float, float]]:
        """(layer, seconds forward, seconds backward), the costliest layer first."""
        found = defaultdict[str, list[float]](lambda: [0.0, 0.0])
        for part in self.operations:
            layer = "/".join(part.origin.layer.split("/")[:DEPTH])
            found[layer][part.origin.backward] += part.seconds
        rows = [(layer, forward, backward) for layer, (forward, backward) in found.items()]
        return sorted(rows, key=lambda row: -row[1] - row[2])

    def by_line(self) -> list[OperationTime]:
        """The operations with those of a line of code together: block_0, block_1, ... as block_*.

        The costliest first.
        """
        return _summed(
            (replace(part.origin, layer=NUMBER.sub("_*", part.origin.layer)), part)
            for part in self.operations
        )

    def _layers(self) -> list[str]:
        rows = self.by_layer()
        shown, rest = rows[:ROWS], rows[ROWS:]
        if rest:
            others = (sum(row[1] for row in rest), sum(row[2] for row in rest))
            shown.append((f"{len(rest)} others", *others))
        return [
            f"{'layer':<44}{'share':>7}{'forward ms':>12}{'backward ms':>13}",
            *(
                f"{layer or '(in no layer)':<44}{self._share(forward + backward)}"
                f"{1e3 * forward:>12.3f}{1e3 * backward:>13.3f}"
                for layer, forward, backward in shown
            ),
        ]

    def _costliest(self) -> list[str]:
        def words(origin: Origin) -> str:
            where = origin.layer or "(in no layer)"
            backward = " backward" if origin.backward else ""
            return f"{origin.operation}{backward}, {where}, {origin.source or '(no line)'}"

        return [
            f"{'share':>6}{'ms':>9}{'times':>7}  operation, layer, line",
            *(
                f"{self._share(part.seconds)[1:]}{1e3 * part.seconds:>9.3f}{part.times:>7.0f}  "
                f"{words(part.origin)}"
                for part in self.by_line()[:ROWS]
            ),
        ]

    def _share(self, seconds: float) -> str:
        return f"{100 * seconds / self.busy:>6.1f}%"


def profile(run: Run, trace: Path, steps: int = 10, options: Options = Options()) -> Profile:
    """Trains a few steps from the initial state, and measures the time of each operation.

    Writes the file `trace` (.json.gz) for Perfetto, in which operations have the names of their
    layers, and nothing else: no run's folder. The times are those of JAX's profiler. On several
    threads operations run side by side, so that their sum can be more than the time of a step.
    Raises `Error` for elastic runs and pmap, whose step is no single compiled program, and where
    the profiler records no operation.
    """
    if run.config.elastic or options.parallel == "pmap":
        raise Error(
            "A profile is of a step that is one compiled program: leave out --elastic, or "
            "--parallel pmap."
        )
    if steps < 1:
        raise Error(f"A profile needs 1 step or more, not {steps}.")
    placement = place_on_devices(run, options)
    learner, data = placement.learner, placement.run.train
    with leave_fresh():  # times do not depend on pretrained weights
        state = learner.init(jax.random.key(run.config.seed), data[0])
    batches = data.read(0)
    traced = learner.step_fn.trace(state, first := next(batches))  # type: ignore[attr-defined]
    # Else a program from the cache has the lines of the code from which it was compiled at first.
    with jax_setting(METADATA_IN_KEY, True):
        step = traced.lower().compile()
    state, _ = step(state, first)
    state, seconds, waits = _timed(step, state, batches, WARM_UP + steps)
    events = _record(step, state, batches, steps)
    text = step.as_text() or ""
    events = _of_module(events, text)
    measured = _of_program(events, found := origins(text))
    if not measured:
        raise Error(f"JAX's profiler recorded no operation on {jax.default_backend()}.")
    _write_trace(trace, events, found)
    devices, median = state.step.sharding.num_devices, statistics.median(seconds[WARM_UP:])
    flops = operations(traced.jaxpr.jaxpr)
    return Profile(
        run.config.name,
        steps,
        devices,
        median,
        statistics.median(waits[WARM_UP:]),
        _summed(
            (origin, OperationTime(origin, event["dur"] / 1e6 / steps, 1 / steps))
            for event, origin in measured
        ),
        roofline(flops // devices, traffic(read(text)), median, run.config.precision),
        trace,
    )


def _timed(
    step: Any, state: State, batches: Iterator[Any], steps: int
) -> tuple[State, list[float], list[float]]:
    """Trains; the last state, and the seconds of each step and of each wait for data."""
    seconds, waits = list[float](), list[float]()
    for _ in range(steps):
        start = time.perf_counter()
        raw = next(batches)
        waits.append(time.perf_counter() - start)
        state, metrics = step(state, raw)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
    return state, seconds, waits


def _record(step: Any, state: State, batches: Iterator[Any], steps: int) -> list[dict[str, Any]]:
    """The events that JAX's profiler records of some steps, in the form of Chrome's traces."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # no calls of Python functions, which slow the steps down
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True, profiler_options=options):
            for number in range(steps):
                with jax.profiler.StepTraceAnnotation("step", step_num=number):
                    state, _, _ = _timed(step, state, batches, 1)
        (path,) = Path(folder).rglob("perfetto_trace.json.gz")
        return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def _of_module(events: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The events without the operations of other programs, whose names may be the same."""
    module = re.match(r"HloModule ([\w.-]+)", text)
    name = module[1] if module else None
    return [e for e in events if e.get("args", {}).get("hlo_module", name) == name]


def _of_program(
    events: list[dict[str, Any]], program: dict[str, Origin]
) -> list[tuple[dict[str, Any], Origin]]:
    """The events of the program's operations, with the origin of each."""
    named = ((event, program.get(event.get("args", {}).get("hlo_op", ""))) for event in events)
    return [(event, origin) for event, origin in named if origin]


def _summed(parts: Iterable[tuple[Origin, OperationTime]]) -> list[OperationTime]:
    """The times of equal origins together, the costliest first."""
    found = dict[Origin, OperationTime]()
    for origin, part in parts:
        before = found.get(origin, OperationTime(origin, 0.0, 0.0))
        found[origin] = OperationTime(
            origin, before.seconds + part.seconds, before.times + part.times
        )
    return sorted(found.values(), key=lambda part: -part.seconds)


def _write_trace(path: Path, events: list[dict[str, Any]], program: dict[str, Origin]) -> None:
    """Writes the events for Perfetto, operations by the names of their layers."""

    def renamed(event: dict[str, Any]) -> dict[str, Any]:
        found = program.get(event.get("args", {}).get("hlo_op", ""))
        if found is None:
            return event
        name = f"{found.layer or '-'}{' backward' if found.backward else ''}: {found.operation}"
        return {**event, "name": name, "args": {**event["args"], "source": found.source}}

    kept = [renamed(e) for e in events if not e.get("name", "").startswith(CHATTER)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, gzip.compress(json.dumps({"traceEvents": kept}).encode()))
