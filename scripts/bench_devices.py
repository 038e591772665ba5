"""A training step on 1, 2, 4 and 8 simulated devices of this CPU, plain and elastic.

The devices share the same cores, so that nothing gets faster: what is measured is what each way of
dividing costs. All take turns, some steps each, in one process; printed are the ratios of medians.

    PJRT_NPROC=8 scripts/bench devices [SHARDS]  # of elastic: 1, 2, 4 or 8 (by default)
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import statistics
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import optax

import jdl
from jdl.learners import jit_learner, with_data
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.transformer import TransformerConfig
from jdl.parallel import build_mesh, elastic, shard_data, shard_learner
from jdl.train.malloc import keep_memory

ROUNDS, SHARDS = 7, int((*sys.argv[1:], 8)[0])
RNG = np.random.default_rng(0)
IMAGES = jdl.data.arrays(
    x=RNG.random((1024, 28, 28, 1), np.float32), y=RNG.integers(0, 10, 1024).astype(np.int32)
)
TEXT = jdl.data.arrays(x=RNG.integers(0, 258, (256, 129)).astype(np.int32))
CASES = {
    "MLP 784-512-256-10, batch 128": (
        jdl.objectives.classify(MLP(10, hidden=(512, 256))),
        IMAGES,
        128,
    ),
    "MLP 784-512-256-10, batch 1024": (
        jdl.objectives.classify(MLP(10, hidden=(512, 256))),
        IMAGES,
        1024,
    ),
    "CNN 32-64, batch 128": (jdl.objectives.classify(CNN(10)), IMAGES, 128),
    "GPT 4 x 128, 128 steps, batch 32": (
        jdl.objectives.next_token(GPT(258, TransformerConfig(max_length=128))),
        TEXT,
        32,
    ),
}
WAYS = ["jit", "data=2", "data=8", "fsdp=8", *(f"elastic {n}" for n in (1, 2, 8) if n <= SHARDS)]


def stepper(
    way: str, objective: jdl.Objective, examples: jdl.data.Dataset, size: int
) -> Callable[[], None]:
    """One step, to its end."""
    learner, data = jdl.descent(objective, optax.adamw(1e-3)), examples.shuffled(size, 0)
    if way.startswith("elastic"):
        learner = elastic(learner, data, SHARDS, jax.devices()[: int(way.split()[1])])
    elif way == "jit":
        learner = jit_learner(with_data(learner, data))
    else:
        mesh = build_mesh(way)
        data = shard_data(data, mesh)
        learner = jit_learner(shard_learner(with_data(learner, data), mesh))
    state, raw_batches = learner.init(jax.random.key(0), data[0]), data.read()

    def step() -> None:
        nonlocal state
        state, metrics = learner.step(state, next(raw_batches))
        jax.block_until_ready((state.params, metrics))

    return step


def main() -> None:
    """Builds, measures and prints, one case after the other."""
    keep_memory()
    print(
        f"jax {jax.__version__}; {jax.devices()[0].device_kind}, {os.cpu_count()} cores; {SHARDS} "
        "shards"
    )
    print(f"{'ratio to jit on one device':<36}" + "".join(f"{way:>11}" for way in WAYS))
    for name, case in CASES.items():
        steppers = {way: stepper(way, *case) for way in WAYS}
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, step in steppers.items():
                step()  # what ran before has left threads awake and the caches full
                began = time.perf_counter()
                step()
                seconds[way].append(time.perf_counter() - began)
        medians = {way: statistics.median(taken) for way, taken in seconds.items()}
        ratios = "".join(f"{medians[way] / medians['jit']:>11.2f}" for way in WAYS)
        print(f"{name:<36}{ratios}   (jit: {1e3 * medians['jit']:.1f} ms)", flush=True)


if __name__ == "__main__":
    main()
