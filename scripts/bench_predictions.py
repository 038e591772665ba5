"""What `jdl plan` says of a step on an NVIDIA H100 and H200, beside what was measured there.

The cases are those of `scripts/bench accelerator`, the times those of docs/measurements. No GPU is
needed, but JAX's plugin for them (`pip install 'jdl[gpu]'`), whose compiler the plan takes, and
PyTorch, as the cases have its models too.

    scripts/bench predictions [TEXT ...]

With TEXT only the cases in whose lines all of these stand, as h100 GPT.
"""

import json
import sys
from pathlib import Path

import jax
import optax
from bench_accelerator import Case, cases
from bench_peers import DECAY, RATE

import jdl
from jdl.plan.gpus import installed_plugin

MEASURED = Path(__file__).parents[1] / "docs/measurements"


def run(case: Case) -> jdl.Run:
    """The case as a run whose data are on the device."""
    x, y = case.data()
    data = jdl.data.arrays(x=x) if case.tokens else jdl.data.arrays(x=x, y=y)
    learner = jdl.descent(case.objective(), optax.adamw(RATE, weight_decay=DECAY))
    precision = "bfloat16" if case.half else "float32"
    config = jdl.Config(name="prediction", precision=precision)
    return jdl.Run(config, learner, data.shuffled(len(x), 0))


def measured(gpu: str) -> dict[str, float]:
    """The seconds of jdl's steps on a GPU, by case."""
    found = json.loads((MEASURED / f"{gpu}.json").read_text())["bench"]["cases"]
    return {name: case["ms"]["jdl"] / 1e3 for name, case in found.items()}


def main() -> None:
    """Prints a line for each case."""
    if installed_plugin() is None:
        sys.exit("The compiler for GPUs is not installed: pip install 'jdl[gpu]'.")
    columns = ("arithmetic", "memory", "dispatch", "estimate", "measured")
    print(f"jax {jax.__version__}; ms a step on one GPU; the ratio of measured to estimate")
    print(f"{'':<40}" + "".join(f"{name:>11}" for name in (*columns, "ratio")))
    for gpu in ("h100", "h200"):
        times = measured(gpu)
        for case in cases(smoke=False):
            label = f"{gpu}, {case.name}"
            if case.name not in times or not all(word in label for word in sys.argv[1:]):
                continue
            time, seconds = jdl.plan.plan(run(case), f"{gpu}:1").time, times[case.name]
            parts = (time.arithmetic, time.memory, time.dispatch, time.seconds, seconds)
            numbers = "".join(f"{1e3 * part:11.3f}" for part in parts)
            ratio = seconds / time.seconds
            print(f"{label:<40}{numbers}{ratio:11.2f}", flush=True)


if __name__ == "__main__":
    main()
