"""What `jdl.layers.convolution` gains on a CPU over `lax.conv_general_dilated`, in a training step.

All models take turns in one process. Printed: the medians of their steps, forward, backward and
AdamW, in ms. One case scans over four steps in one program.
"""

import os
import statistics
import time
from functools import partial

import jax
import numpy as np
import optax

import jdl
from jdl.layers import Conv, conv_norm, convolution
from jdl.models import cnn
from jdl.models.efficientnet import EfficientNet
from jdl.models.resnet import ResNet

BATCH, ROUNDS, SCANNED = 128, 9, 4
CASES = {
    "CNN 32, 64": cnn.CNN(10, ((32, 1), (64, 1)), dense=()),
    "CNN 32, 64, 128": cnn.CNN(10, ((32, 1), (64, 1), (128, 1)), dense=()),
    "CNN 32, 64 64, 128": cnn.CNN(10, ((32, 1), (64, 2), (128, 1)), dense=()),
    "CNN 32 32, 64 64": cnn.CNN(10, ((32, 2), (64, 2)), dense=()),
    "CNN 32, 64, BatchNorm": cnn.CNN(10, ((32, 1), (64, 1)), dense=(), batch_norm=True),
    "ResNet 48, 96, 192": ResNet(10, ((32, 0), (48, 1), (96, 1), (192, 1))),
    "EfficientNet, width 0.5": EfficientNet(10, width=0.5, depth=0.5),
    "CNN 32, 64, scanned": cnn.CNN(10, ((32, 1), (64, 1)), dense=()),
}
RNG = np.random.default_rng(0)
IMAGES = RNG.random((BATCH, 28, 28, 1), np.float32)
LABELS = RNG.integers(0, 10, BATCH)


def stepper(how, model, steps):
    """Compiled training steps of a model that convolves by `how`, ready to be called."""
    cnn.Conv = conv_norm.Conv = partial(Conv, conv_general_dilated=how)
    learner = jdl.descent(jdl.objectives.classify(model), optax.adamw(1e-3))
    batch = jdl.data.arrays(x=IMAGES, y=LABELS).batches(BATCH)[0]
    state = jax.jit(learner.init)(jax.random.key(0), batch)
    step = jax.jit(learner.step)
    if steps > 1:
        step = jax.jit(
            lambda state, batch: jax.lax.scan(
                lambda s, _: learner.step(s, batch), state, length=steps
            )
        )
    jax.block_until_ready(step(state, batch))
    return lambda: jax.block_until_ready(step(state, batch))


scanned = {name: SCANNED if name.endswith("scanned") else 1 for name in CASES}
steppers = {
    (name, how): stepper(how, model, scanned[name])
    for name, model in CASES.items()
    for how in (jax.lax.conv_general_dilated, convolution)
}
seconds = {case: [] for case in steppers}
for _ in range(ROUNDS):
    for case, step in steppers.items():
        began = time.perf_counter()
        step()
        seconds[case].append((time.perf_counter() - began) / scanned[case[0]])

print(
    f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, batch "
    f"{BATCH}; ms a step"
)
print(f"{'model':<24} {'lax':>7} {'ours':>7} {'ratio':>6}")
for name in CASES:
    lax, ours = (1e3 * statistics.median(s) for (case, _), s in seconds.items() if case == name)
    print(f"{name:<24} {lax:7.1f} {ours:7.1f} {ours / lax:6.2f}")
