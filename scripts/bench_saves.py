"""What a checkpoint costs: its checksums beside its writing, and how long training waits.

    scripts/bench saves [--megabytes 100] [--rounds 7]

A state of an MLP under AdamW. Printed: medians of the seconds of each part of a save; and the
milliseconds of a step in blocks of 100 steps with one save and in blocks with none, in turn.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import jax
import numpy as np
import optax

import jdl
from jdl.learners import jit_learner, with_data
from jdl.models.mlp import MLP
from jdl.store import checkpoints, manifest
from jdl.store.step_trace import write_leaves
from jdl.train.compile_cache import quiet_libraries
from jdl.train.malloc import keep_memory

EVERY = 100
taken: dict[str, list[float]] = defaultdict(list)


@contextmanager
def timed(name: str):
    """Adds the seconds of what is done meanwhile."""
    began = time.perf_counter()
    yield
    taken[name].append(time.perf_counter() - began)


def clocked(name, function):
    """The function, each call of which is timed."""

    def call(*args, **kwargs):
        with timed(name):
            return function(*args, **kwargs)

    return call


def measure(loop, state, data, rounds: int, folder: Path) -> None:
    """Trains with and without a save every 100 steps, in turn, and takes the times."""
    digests = clocked("CRC of leaves", partial(write_leaves, folder))
    saver = checkpoints.Checkpoints(folder / "checkpoints", on_saved=digests)
    writing = clocked("writing, by Orbax", saver._manager.save)
    sealing = clocked("manifest", manifest.write_manifest)
    raw_batches = data.read()
    with (
        patch.object(saver._manager, "save", writing),
        patch.object(manifest, "write_manifest", sealing),
    ):
        for _ in range(rounds + 1):
            for save in (True, False):
                with timed("step, with a save" if save else "step, without"):
                    state = block(loop, state, raw_batches, saver if save else None)
                saver.wait()
            with timed("verifying"):
                assert manifest.damage(folder / "checkpoints" / str(saver.latest())) is None
    saver.close()


def block(loop, state, raw_batches, saver):
    """Some steps, of which the first is saved."""
    for step in range(EVERY):
        state, metrics = loop.step(state, next(raw_batches))
        if saver and step == 0:
            jax.block_until_ready(state)
            with timed("the loop waits for a save to begin"):
                saver.save(int(state.step), state, {})
        if step % 8 == 7:  # as many steps in flight as fit allows
            jax.block_until_ready(metrics)
    return jax.block_until_ready(state)


def report(size: int, rounds: int) -> None:
    """Prints the medians, the first round left out."""
    medians = {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}
    print(f"a state of {size / 1e6:.0f} MB, {rounds} rounds")
    parts = ("writing, by Orbax", "manifest", "CRC of leaves")
    whole = sum(medians[name] for name in parts)
    for name in (*parts, "verifying", "the loop waits for a save to begin"):
        share = 100 * medians[name] / whole
        print(f"{name:<40}{1e3 * medians[name]:>9.1f} ms {share:>6.1f}% of a save")
    for name in ("step, with a save", "step, without"):
        print(f"{name:<40}{1e3 * medians[name] / EVERY:>9.2f} ms")
    pairs = zip(taken["step, with a save"][1:], taken["step, without"][1:], strict=True)
    share = statistics.median(a - b for a, b in pairs) / medians["step, without"]
    print(f"a save every {EVERY} steps makes a step {100 * share:+.1f}% longer")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="scripts/bench saves")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    keep_memory()
    quiet_libraries()
    width = round((given.megabytes * 1e6 / 12) ** 0.5)  # a square kernel, and two moments of it
    rng = np.random.default_rng(0)
    x, y = rng.random((1280, width), np.float32), rng.integers(0, 10, 1280).astype(np.int32)
    data = jdl.data.arrays(x=x, y=y).shuffled(128, 0)
    learner = jdl.descent(jdl.objectives.classify(MLP(10, hidden=(width,))), optax.adamw(1e-4))
    loop = jit_learner(with_data(learner, data))
    state = loop.init(jax.random.key(0), data[0])
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    with tempfile.TemporaryDirectory() as folder:
        measure(loop, state, data, given.rounds, Path(folder))
    report(size, given.rounds)


if __name__ == "__main__":
    main()
