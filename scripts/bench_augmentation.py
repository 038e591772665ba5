"""Measures what each augmentation costs, relative to the training step of a small CNN.

python scripts/bench_augmentation.py

A batch is 128 images of 32 x 32 x 3; the CNN is that of experiments/digits_cnn.py. Processor time,
the least of 5: other work on the machine lengthens it less than the clock's.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jdl
from jdl import data
from jdl.learners import jit_learner, with_data
from jdl.models.cnn import CNN

BATCH = 128
CHANGES = {
    "color_jitter": data.color_jitter(0.4, 0.4, 0.4, 0.1),
    "cutmix": data.cutmix(classes=10),
    "cutout": data.cutout(8),
    "gaussian_blur": data.gaussian_blur(3),
    "gaussian_noise": data.gaussian_noise(0.1),
    "mixup": data.mixup(classes=10),
    "rand_augment": data.rand_augment(),
    "random_affine": data.random_affine(10, 1, 0.1, 5),
    "random_crop": data.random_crop(4),
    "random_flip": data.random_flip(),
    "random_grayscale": data.random_grayscale(),
    "random_resized_crop": data.random_resized_crop(),
}


def least(function: Callable[[], Any]) -> float:
    """The least processor time of 5 calls, after one that compiles."""
    times = []
    for _ in range(6):
        start = time.process_time()
        jax.block_until_ready(function())
        times.append(time.process_time() - start)
    return min(times[1:])


def main() -> None:
    """Prints a line for the step, and one for each augmentation."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (4 * BATCH, 32, 32, 3), dtype=np.uint8)
    table = data.arrays(x=images, y=draw.integers(0, 10, len(images)))
    plain = table.shuffled(BATCH, 0)
    model = CNN(10, ((32, 2), (64, 2)), dense=(), batch_norm=True, dropout=0.2)
    learner = jdl.descent(jdl.objectives.classify(model), optax.adamw(1e-3))
    run = jit_learner(with_data(learner, plain))
    raw = next(plain.read())
    states = [run.init(jax.random.key(0), plain[0])]

    def step() -> Any:
        states[0], _ = run.step(states[0], raw)
        return states[0].params

    whole = least(step)
    print(f"step: {1000 * whole:.0f} ms of processor time", flush=True)
    for name, change in CHANGES.items():
        batch = jax.jit(table.shuffled(BATCH, 0, change).batch)
        share = least(lambda: batch(raw, jnp.int32(0))) / whole  # noqa: B023
        print(f"{name}: {share:.1%}", flush=True)


if __name__ == "__main__":
    main()
