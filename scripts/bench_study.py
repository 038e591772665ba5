"""A study beside loops of the same runs in jdl and in PyTorch: runs of experiments/digits_mlp.py.

All train RUNS runs: five learning rates with as many seeds, evaluated on validation data 20 times.
`jdl study` saves the last and the best state of each run; the loop in jdl calls `jdl.fit` for one
run after another, with its 20 checkpoints; that in PyTorch, the same model and AdamW with one
thread, saves nothing and draws batches by index. Each is a process of its own, jdl with an empty
cache of compiled programs, and they take turns. Printed: processor seconds a run, with the range
over the rounds; those by the clock say little where others use the machine.

    TORCH_PYTHON=python scripts/bench study 40 1000 3  # runs, a multiple of 5; steps; rounds
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import jdl

RATES = ("1e-3", "2e-3", "3e-3", "5e-3", "1e-2")
SCRIPT = Path(jdl.__file__).parents[1] / "experiments" / "digits_mlp.py"


def study(runs: int, steps: int, folder: Path) -> None:
    """`jdl study`, as a user calls it."""
    from jdl.cli.study import study

    grid = ["--grid", f"lr={','.join(RATES)}", "--seeds", str(runs // len(RATES))]
    study([str(SCRIPT), *grid, "--study", str(folder), "--valid", "0.2", "--steps", str(steps)])


def loop(runs: int, steps: int, folder: Path) -> None:
    """A loop over the same runs, in one process."""
    from jdl.cli.startup import set_up_jax
    from jdl.train.experiment import load
    from jdl.train.malloc import keep_memory

    set_up_jax()
    keep_memory()
    _, run, config = load(SCRIPT)
    for rate in map(float, RATES):
        for seed in range(runs // len(RATES)):
            c = config(name="loop", lr=rate, seed=seed, steps=steps, valid=0.2)
            jdl.fit(run(c), jdl.Options(root=folder, quiet=True))


def seconds(command: list[str], cache: Path) -> float:
    """Processor seconds of a process, of all its threads."""
    before = os.times()
    environment = {**os.environ, "JDL_CACHE": str(cache)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before[2] - before[3]


def write_digits(folder: Path) -> Path:
    """The rows of the experiment, for PyTorch."""
    train, _ = jdl.data.digits()
    splits = dict(zip(("train", "valid"), train.split(0.8, 0.2), strict=True))
    columns = {}
    for name, data in splits.items():
        rows = data.take(np.arange(len(data)))
        columns |= {f"{name}_x": np.float32(rows["x"]) / 255, f"{name}_y": rows["y"]}
    np.savez(folder / "digits.npz", **columns)
    return folder / "digits.npz"


def main() -> None:
    """Prints a line for each of the contestants."""
    given = [int(word) for word in sys.argv[1:]]
    runs, steps, rounds = given + [40, 1000, 3][len(given) :]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        here = [sys.executable, __file__, "--only"]
        numbers = [str(runs), str(steps)]
        torch = os.environ.get("TORCH_PYTHON", sys.executable)
        peer = [torch, str(Path(__file__).with_name("bench_study_torch.py"))]
        data = str(write_digits(folder))
        for n in range(rounds):
            for name in ("study", "loop"):
                place = folder / f"{name}-{n}"
                taken = seconds([*here, name, *numbers, str(place)], folder / f"cache-{name}-{n}")
                found.setdefault(f"jdl, {name}", []).append(taken / runs)
            taken = seconds([*peer, data, *numbers, *RATES], folder)
            found.setdefault("PyTorch, loop", []).append(taken / runs)
    base = statistics.median(found["jdl, study"])
    print(f"{runs} runs of {steps:,} steps, {rounds} rounds; processor seconds a run")
    for name, values in found.items():
        middle = statistics.median(values)
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:<13} {middle:6.2f}  ({spread})  {middle / base:5.2f} times the study")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:
        which, runs, steps, place = sys.argv[2:]
        {"study": study, "loop": loop}[which](int(runs), int(steps), Path(place))
    else:
        main()
