"""What the loop costs: a step of `fit` against the same step in a hand-written `jax.jit` loop.

Both train the same model on the same number of random images of 28 x 28, in turn, a block of steps each, in one
process; `fit` as a user runs it, with its defaults for logging. Printed: the medians over the blocks.
"""

import contextlib
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jdl
from jdl.models.cnn import CNN
from jdl.models.mlp import MLP
from jdl.train import placement

ROWS, BATCH = 12_800, 128
CASES = {  # model, steps a block, blocks
    "mlp 784-512-256-10": (MLP(10, hidden=(512, 256)), 100, 15),
    "cnn 32-64, dense 128": (CNN(10, blocks=((32, 1), (64, 1)), dense=(128,)), 10, 9),
}
RNG = np.random.default_rng(0)
IMAGES = RNG.random((ROWS, 28, 28, 1), np.float32)
LABELS = RNG.integers(0, 10, ROWS).astype(np.int32)


class Bare:
    """The loop that one writes by hand: data on the device, gathered by index, one jitted and donated step."""

    def __init__(self, model: nn.Module) -> None:
        optimizer = optax.adamw(1e-3)
        self.images, self.labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)

        def loss(params, x, y):
            logits = model.apply({"params": params}, x, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), (
                logits.argmax(-1) == y
            ).mean()

        def step(params, opt_state, images, labels, rows):
            x, y = images[rows], labels[rows]
            (value, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(params, x, y)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            norms = [optax.tree.norm(tree) for tree in (grads, updates, params)]
            return params, opt_state, (value, accuracy, norms)

        self.params = model.init(jax.random.key(0), self.images[:1])["params"]
        self.opt_state = optimizer.init(self.params)
        self.step = jax.jit(step, donate_argnums=(0, 1))
        self.order, self.i = RNG.permutation(ROWS).astype(np.int32), 0

    def block(self, steps: int) -> float:
        """Seconds for some steps."""
        began = time.perf_counter()
        for _ in range(steps):
            start = self.i * BATCH % ROWS
            rows = self.order[start : start + BATCH]
            self.params, self.opt_state, metrics = self.step(
                self.params, self.opt_state, self.images, self.labels, rows
            )
            self.i += 1
        jax.block_until_ready(metrics)
        return time.perf_counter() - began


class Interleaved:
    """The data that `fit` reads, which runs a block of the other loop after each block of its own."""

    def __init__(self, data, bare: Bare, steps: int, last: list) -> None:
        self.data, self.bare, self.steps, self.last = data, bare, steps, last
        self.seconds = {"fit": [], "bare": []}

    def __getattr__(self, name):
        return getattr(self.data, name)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data[i]

    def read(self, start=0):
        """Yields what `data.read` yields, and between blocks takes the time."""
        sources = self.data.read(start)
        while True:
            began = time.perf_counter()
            for _ in range(self.steps):
                yield next(sources)
            jax.block_until_ready(self.last[-1])
            self.seconds["fit"].append(time.perf_counter() - began)
            self.seconds["bare"].append(self.bare.block(self.steps))


def measure(model: nn.Module, steps: int, blocks: int) -> dict[str, float]:
    """Milliseconds a step: the medians over the blocks, the first of each left out."""
    last: list = [None]
    compiled = placement.compiled

    def watched(learner):
        learner = jit_learner(learner)

        def step(state, source):
            state, metrics = learner.step(state, source)
            last[0] = metrics
            return state, metrics

        return replace(learner, step=step)

    train = jdl.data.arrays(x=IMAGES, y=LABELS).shuffled(BATCH, 0)
    data = Interleaved(train, Bare(model), steps, last)
    learner = jdl.descent(jdl.objectives.classify(model), optax.adamw(1e-3))
    config = jdl.Config(name="overhead", steps=steps * (blocks + 1) + 1)
    with tempfile.TemporaryDirectory() as root, Path(os.devnull).open("w") as nowhere:
        placement.compiled = watched
        with contextlib.redirect_stdout(nowhere):
            jdl.fit(
                jdl.Run(config, learner, data),
                jdl.Options(root=Path(root), eval_every=0, save_every=0),
            )
        placement.compiled = compiled
    return {
        name: 1e3 * statistics.median(seconds[1:]) / steps for name, seconds in data.seconds.items()
    }


print(
    f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, batch {BATCH}; ms a step"
)
print(f"{'model':<24} {'fit':>8} {'bare':>8} {'ratio':>7}")
for name, case in CASES.items():
    found = measure(*case)
    print(
        f"{name:<24} {found['fit']:8.3f} {found['bare']:8.3f} {found['fit'] / found['bare']:7.3f}",
        flush=True,
    )
