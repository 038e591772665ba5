"""Several steps a call: milliseconds a step of experiments by `--steps-per-call`.

Each is trained by `jdl.fit` as it stands, with evaluation and checkpoints at the end alone, once
for each number of steps a call. A hook takes the time of every block of steps, and the rounds take
turns. Printed: the medians over the blocks, the first of each training left out; and the batches of
an epoch, with which a call ends.

    scripts/bench calls [EXPERIMENT ...]
"""

import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax

import jdl
from jdl.train.experiment import load

CALLS, ROUNDS, BLOCKS = (1, 4, 16, 64), 2, 6
EXPERIMENTS = {  # steps a block
    "digits_perceptron": 300,
    "breast_cancer": 300,
    "digits_mlp": 100,
    "digits_rows_lstm": 100,
    "digits_cnn": 30,
}


@dataclass
class Blocks:
    """A hook that takes the time of each block of steps."""

    steps: int
    began: float = 0.0
    milliseconds: list = field(default_factory=list)

    def __call__(self, step, state, metrics):
        """Ends a block."""
        jax.block_until_ready((state.params, metrics))
        now = time.perf_counter()
        self.milliseconds.append(1e3 * (now - self.began) / self.steps)
        self.began = now


def measure(name, steps, calls):
    """Milliseconds a step, of each block but the first; the batches of an epoch."""
    _, run, config = load(Path(__file__).parents[1] / "experiments" / f"{name}.py")
    blocks = Blocks(steps)
    made = replace(run(config(name=name, steps=steps * (BLOCKS + 1))), hooks=((steps, blocks),))
    with tempfile.TemporaryDirectory() as root:
        options = jdl.Options(Path(root), eval_every=0, save_every=0, quiet=True)
        jdl.fit(made, replace(options, steps_per_call=calls))
    return blocks.milliseconds[1:], len(made.train)


def main():
    """Prints a line an experiment."""
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, {device}, {os.cpu_count()} cores; ms a step")
    print(f"{'steps a call':<20}", *(f"{calls:>8}" for calls in CALLS), "  an epoch")
    for name, steps in EXPERIMENTS.items():
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        taken = {calls: [] for calls in CALLS}
        for _ in range(ROUNDS):
            for calls, blocks in taken.items():
                milliseconds, epoch = measure(name, steps, calls)
                blocks += milliseconds
        medians = [statistics.median(blocks) for blocks in taken.values()]
        print(f"{name:<20}", *(f"{ms:8.3f}" for ms in medians), f"{epoch:10}", flush=True)


if __name__ == "__main__":
    main()
