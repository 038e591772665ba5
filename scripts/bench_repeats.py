"""Which models repeat to the bit on this device, with which XLA flags, and what the flags cost.

Every model of the tests' table, and the reinforcement learners of the tests, are trained for some
steps, twice in one process (the same compiled programs), and in two processes that compile for
themselves. On a GPU they may differ in two ways: a kernel adds in the order in which its threads
end, which shows in one process already; or XLA times several kernels while it compiles, and takes
the fastest, which shows between processes. Batches have 384 rows, so that threads do meet.

Printed are the models that differed, by flags, and the median ratio of the time of a step to that
without flags; processes run side by side, so that is rough.

    scripts/bench repeats [--json FILE] [--jobs 14] [--steps 20] [--models NAME ...]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
TILES, PROCESSES = 32, 2
FLAGS = {
    "no flags": "",
    "deterministic_ops": "--xla_gpu_deterministic_ops=true",
    "exclude_nondeterministic_ops": "--xla_gpu_exclude_nondeterministic_ops=true",
}


def makers() -> dict:
    """By name, what makes a learner and a batch."""
    sys.path[:0] = [str(TESTS), str(TESTS / "scripts")]
    import jax
    import jax.numpy as jnp
    import optax
    from model_table import TABLE
    from test_reinforcement_learners import LEARNERS
    from unsupervised_table import UNSUPERVISED

    import jdl

    def of_row(row):
        def tile(column):
            return jnp.concatenate([column] * TILES)

        learner = row.wrap(jdl.descent(row.objective(row.model), optax.adamw(row.rate)))
        return learner, jax.tree.map(tile, row.batch())

    def of_environment(name):
        return LEARNERS[name][0](), jdl.data.episodes(4)[0]

    rows = {row.name: lambda row=row: of_row(row) for row in TABLE + UNSUPERVISED}
    return rows | {name: lambda name=name: of_environment(name) for name in LEARNERS}


def train(name: str, steps: int) -> dict:
    """The digests of two trainings by the same programs, and the milliseconds of a step."""
    import jax

    from jdl.learners import jit_learner
    from jdl.store.checkpoints import state_digest

    learner, batch = makers()[name]()
    compiled, digests, times = jit_learner(learner), [], []
    for _ in range(2):
        state = compiled.init(jax.random.key(0), batch)
        state, _ = compiled.step(state, batch)
        began = time.perf_counter()
        for _ in range(steps - 1):
            state, _ = compiled.step(state, batch)
        jax.block_until_ready(state)
        times.append(1e3 * (time.perf_counter() - began) / (steps - 1))
        digests.append(state_digest(state))
    return {"digests": digests, "ms": times[1]}


def worker(names: list[str], steps: int) -> None:
    """Prints a line of JSON for each model."""
    for name in names:
        try:
            found = train(name, steps)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        print(json.dumps({"name": name, **found}), flush=True)


def run(flags: str, names: list[str], steps: int, add: Callable[[dict], None]) -> None:
    """Gives `add` what a new process, with these flags and without a cache, finds of each model."""
    env = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    words = [sys.executable, __file__, "--steps", str(steps), "--worker", *names]
    missing = set(names)
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("{"):
                row = json.loads(line)
                missing.remove(row["name"])
                add(row)
    for name in sorted(missing):
        add({"name": name, "error": f"its process ended with code {process.returncode}"})


def by_model(rows: list[dict]) -> dict[str, list[dict]]:
    """What the processes found, by model."""
    grouped: dict[str, list[dict]] = {}
    for row in rows:
        grouped.setdefault(row["name"], []).append(row)
    return grouped


def summary(label: str, rows: list[dict], usual: list[dict]) -> str:
    """Which models differed with these flags, and what a step costs beside the `usual` one."""
    models, before = by_model(rows), by_model(usual)
    ran = {name: r for name, r in models.items() if not any("error" in row for row in r)}
    kernels = sorted(name for name, r in ran.items() if any(len(set(x["digests"])) > 1 for x in r))
    between = sorted(name for name, r in ran.items() if len({x["digests"][0] for x in r}) > 1)
    failed = sorted(set(models) - set(ran))
    ratios = [
        min(x["ms"] for x in r) / min(x["ms"] for x in before[name] if "ms" in x)
        for name, r in ran.items()
        if any("ms" in x for x in before[name])
    ]
    lines = [
        f"{label}: {len(ran)} models, a step takes {statistics.median(ratios):.2f} times as long",
        f"  differ in one process ({len(kernels)}): {', '.join(kernels)}",
        f"  differ between processes ({len(between)}): {', '.join(between)}",
    ]
    return "\n".join(lines + [f"  failed ({len(failed)}): {', '.join(failed)}"] * bool(failed))


def main() -> None:
    """Runs the models in shares, side by side; writes all that was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="the file of results")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--models", nargs="+", help="names of rows; by default all")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.steps)
        return
    names = args.models or list(makers())
    shares = [names[n :: args.jobs] for n in range(min(args.jobs, len(names)))]
    found: dict[str, list[dict]] = {label: [] for label in FLAGS}
    lock = threading.Lock()

    def task(label: str, share: list[str]) -> None:
        def add(row: dict) -> None:
            with lock:
                found[label].append(row)
                if args.json:
                    args.json.write_text(json.dumps(found, indent=1) + "\n")

        run(FLAGS[label], share, args.steps, add)

    with ThreadPoolExecutor(args.jobs) as threads:
        for label in FLAGS:
            tasks = [threads.submit(task, label, s) for s in shares for _ in range(PROCESSES)]
            for done in tasks:
                done.result()
            print(summary(label, found[label], found["no flags"]), flush=True)


if __name__ == "__main__":
    main()
