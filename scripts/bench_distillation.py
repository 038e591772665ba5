"""CPU-milliseconds of a step of distillation: the student alone, with its teacher, with a column.

scripts/bench distillation: the models of `fashion_small`, on random images and logits.
"""

import time

import jax
import numpy as np
import optax

import jdl
from jdl.models.resnet import ResNet
from jdl.objectives.pretrained_model import Weights
from jdl.weights.load import arrays_by_path

STEPS, ROWS = 20, 128


def resnet(width: int) -> ResNet:
    """The network of `fashion_small`."""
    return ResNet(10, stages=((width, 0), (2 * width, 1), (4 * width, 1), (8 * width, 1)))


def main() -> None:
    """Prints the mean of some steps of each."""
    draw, key = np.random.default_rng(0), jax.random.key(0)
    x = draw.random((ROWS, 28, 28, 1), np.float32)
    given = draw.normal(size=(ROWS, 10)).astype(np.float32)
    batch = {"x": x, "y": np.arange(ROWS, dtype=np.int32) % 10, "given": given}
    arrays = arrays_by_path(resnet(16).init(key, x))
    weights = Weights(lambda: (arrays, "0" * 64, "random"))
    student = jdl.objectives.classify(resnet(8))
    objectives = {
        "the student alone": student,
        "its teacher in every step": jdl.distil(student, jdl.pretrained(resnet(16), weights)),
        "its teacher's logits as a column": jdl.distil(student, "given"),
    }
    for name, objective in objectives.items():
        learner = jdl.descent(objective, optax.adamw(1e-3))
        state = jax.jit(learner.init)(key, batch)
        step = jax.jit(learner.step)
        state, _ = jax.block_until_ready(step(state, batch))
        start = time.process_time()
        for _ in range(STEPS):
            state, _ = jax.block_until_ready(step(state, batch))
        print(f"{name:<34} {1e3 * (time.process_time() - start) / STEPS:6.0f} CPU-ms")


if __name__ == "__main__":
    main()
