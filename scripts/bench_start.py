"""From the command to the first step: what imports, data, traces and programs take of it.

Each experiment is begun in a process of its own, as `jdl train` does it but for the run's folder,
first with an empty compilation cache and then with what that left there. Printed: seconds of the
clock and of the processor, by part; medians over the rounds, and their sum.

    scripts/bench start [EXPERIMENT ...]
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

EXPERIMENTS, ROUNDS = ("digits_cnn", "stdlib_gpt"), 3
PARTS = ("imports", "data", "check", "initial state", "first step")
CACHE = {  # as jdl sets its own, but in a folder that is empty at first
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def begin(script: str, started: float) -> None:
    """Begins to train an experiment; prints the times of its parts."""
    clock, processor = [started], [0.0]

    def done() -> None:
        clock.append(time.monotonic())
        processor.append(time.process_time())

    from jdl.train.compile_cache import quiet_libraries
    from jdl.train.thread_pool import fix_thread_pool_size

    fix_thread_pool_size()
    from dataclasses import replace

    import jax

    import jdl
    from jdl.learners import trace_once
    from jdl.train.check import check_run
    from jdl.train.experiment import load
    from jdl.train.fit import fit as _fit  # noqa: F401, what a training imports
    from jdl.train.placement import apply_config, place_on_devices

    quiet_libraries()
    done()
    _, run, config = load(Path(script))
    made = run(config(name="start"))
    example = made.train[0]
    done()
    made = apply_config(made)
    made = replace(made, learner=trace_once(made.learner))
    check_run(made)
    done()
    placement = place_on_devices(made, jdl.Options())
    state = jax.block_until_ready(placement.learner.init(jax.random.key(0), example))
    done()
    state, metrics = placement.learner.step(state, next(placement.run.train.read()))
    jax.block_until_ready((state.params, metrics))
    done()
    parts = [[b - a for a, b in pairwise(t)] for t in (clock, processor)]
    print(json.dumps(parts))


def measure(script: Path, cache: str) -> list[list[float]]:
    """The times of the parts in a process of its own: of the clock, and of the processor."""
    words = [sys.executable, __file__, "--begin", str(script), str(time.monotonic())]
    environment = {**os.environ, **CACHE, "JAX_COMPILATION_CACHE_DIR": cache}
    output = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def main() -> None:
    """Prints a line an experiment and state of the cache."""
    print(f"{os.cpu_count()} cores; seconds of the clock (of the processor)")
    print(f"{'':<24}", *(f"{part:>15}" for part in (*PARTS, "all of these")))
    for name in sys.argv[1:] or EXPERIMENTS:
        script = Path(__file__).parents[1] / "experiments" / f"{name}.py"
        found: dict[str, list[list[list[float]]]] = {"empty": [], "warm": []}
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as cache:
                for runs in found.values():
                    runs.append(measure(script, cache))
        for state, runs in found.items():
            clock, processor = (
                [statistics.median(part) for part in zip(*kind, strict=True)]
                for kind in zip(*runs, strict=True)
            )
            cells = zip([*clock, sum(clock)], [*processor, sum(processor)], strict=True)
            line = (f"{f'{a:.2f} ({b:.2f})':>15}" for a, b in cells)
            print(f"{f'{name}, {state}':<24}", *line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--begin"]:
        begin(sys.argv[2], float(sys.argv[3]))
    else:
        main()
