"""Peak memory of training, beside the least that arithmetic needs: an experiment a process.

Begun as `jdl train` does, and trained for five steps; nothing is evaluated or saved. In MiB: the
process's largest resident memory after the imports, with the data read, with the initial state, and
at the end (the peak, compilation included). The minimum is that of `jdl.plan` on one CPU device:
parameters, gradients, the optimizer's and other state, the data that is kept on the device, and a
batch. Beside it the temporaries that XLA plans for the step (gradients, activations, workspace).
The ratio is of what the peak has beyond the imports to the minimum.

    scripts/bench memory [EXPERIMENT ...]
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

EXPERIMENTS = ("digits_cnn", "digits_rows_lstm", "stdlib_gpt", "moons_flow", "cartpole_ppo")
STEPS = 5
RESIDENT = ("imports", "data", "state", "peak")
NEEDED = ("params", "gradients", "opt_state", "other_state", "data kept", "batch")


def resident() -> int:
    """The largest resident memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def train(script: str) -> None:
    """Trains an experiment for some steps; prints bytes, as JSON."""
    from jdl.cli.startup import set_up_jax
    from jdl.train.malloc import keep_memory

    keep_memory()
    set_up_jax(compilation_cache=False)  # a program that is read takes less than one compiled
    import jax
    import numpy as np

    import jdl
    from jdl.train.experiment import load
    from jdl.train.fit import fit as _fit  # noqa: F401, what a training imports
    from jdl.train.placement import apply_config, place_on_devices

    found = {"imports": resident()}
    _, run, config = load(Path(script))
    made = apply_config(run(config(name="memory")))
    example = made.train[0]
    found["data"] = resident()
    placement = place_on_devices(made, jdl.Options())
    state = jax.block_until_ready(placement.learner.init(jax.random.key(0), example))
    found["state"] = resident()
    raw_batches = placement.run.train.read()
    for _ in range(STEPS):
        raw = next(raw_batches)
        state, metrics = placement.learner.step(state, raw)
        jax.block_until_ready((state.params, metrics))
    found["peak"] = resident()
    planned = jdl.plan.plan(made, "cpu:1").memory
    found |= {name: getattr(planned, name) for name in ("params", "opt_state", "other_state")}
    streamed = any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(raw))
    found |= {"gradients": planned.params, "data kept": 0 if streamed else planned.data}
    found["batch"] = sum(column.nbytes for column in jax.tree.leaves(example))
    print(json.dumps({**found, "temporaries": planned.temporaries}))


def measure(script: Path) -> dict[str, int]:
    """The bytes of an experiment, trained in a process of its own."""
    words = [sys.executable, __file__, "--train", str(script)]
    output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def main() -> None:
    """Prints a line an experiment."""
    names = (*RESIDENT, *NEEDED, "minimum", "temporaries", "ratio")
    print(f"MiB; {os.cpu_count()} cores, {STEPS} steps")
    print(f"{'':<22}", *(f"{name:>11}" for name in names))
    for name in sys.argv[1:] or EXPERIMENTS:
        found = measure(Path(__file__).parents[1] / "experiments" / f"{name}.py")
        found["minimum"] = sum(found[part] for part in NEEDED)
        ratio = (found["peak"] - found["imports"]) / found["minimum"]
        cells = (f"{found[part] / 2**20:>11.2f}" for part in names[:-1])
        print(f"{name:<22}", *cells, f"{ratio:>11.1f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2])
    else:
        main()
