"""What the loop costs: a step of `fit` against the same step in a hand-written `jax.jit` loop.

Both train the same model on the same random data, in turn, a block of steps each, in one process;
`fit` as a user runs it, with its defaults for logging. A hook of the run takes the times, and runs
the other loop's block. Printed: the medians over the blocks.

    scripts/bench overhead [MODEL ...]
"""

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jdl
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.rnn import RNN
from jdl.models.transformer import TransformerConfig

BATCH, IMAGES, TEXTS, LENGTH = 128, 12_800, 1_280, 128
CASES = {  # model, steps a block, blocks
    "mlp 784-512-256-10": (MLP(10, hidden=(512, 256)), 100, 15),
    "cnn 32-64, dense 128": (CNN(10, blocks=((32, 1), (64, 1)), dense=(128,)), 10, 9),
    "lstm 128, 28 steps": (RNN(10, (128,)), 20, 9),
    "gpt 2 x 64, 128 tokens": (
        GPT(258, TransformerConfig(width=64, depth=2, heads=2, max_length=LENGTH)), 4, 9,
    ),
}  # fmt: skip
GENERATOR = np.random.default_rng(0)


def columns(model):
    """Random images with labels, or random tokens."""
    if isinstance(model, GPT):
        return {"x": GENERATOR.integers(0, 258, (TEXTS, LENGTH + 1)).astype(np.int32)}
    x = GENERATOR.random((IMAGES, 28, 28, 1), np.float32)
    return {"x": x, "y": GENERATOR.integers(0, 10, IMAGES).astype(np.int32)}


def bare_step(model, optimizer):
    """The step that one writes by hand: rows gathered by index, loss, gradients, update, norms."""

    def loss(params, batch):
        text = isinstance(model, GPT)
        x, y = (batch["x"][:, :-1], batch["x"][:, 1:]) if text else (batch["x"], batch["y"])
        logits = model.apply({"params": params}, x, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), (logits.argmax(-1) == y).mean()

    def step(params, opt_state, data, rows):
        batch = {name: column[rows] for name, column in data.items()}
        (value, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        norms = [optax.tree.norm(tree) for tree in (grads, updates, params)]
        return params, opt_state, (value, accuracy, norms)

    return jax.jit(step, donate_argnums=(0, 1))


@dataclass
class Turns:
    """The two loops in turn, as a hook that `fit` calls after each of its blocks."""

    model: object
    data: dict
    steps: int
    seconds: dict = field(default_factory=lambda: {"fit": [], "bare": []})

    def __post_init__(self):
        optimizer = optax.adamw(1e-3)
        self.step = bare_step(self.model, optimizer)
        self.arrays = {name: jnp.asarray(column) for name, column in self.data.items()}
        first = self.arrays["x"][:1]
        first = first[:, :-1] if isinstance(self.model, GPT) else first
        self.params = self.model.init(jax.random.key(0), first)["params"]
        self.opt_state, self.i = optimizer.init(self.params), 0
        self.order = GENERATOR.permutation(len(self.data["x"])).astype(np.int32)
        self.began = time.perf_counter()

    def hook(self, step, state, metrics):
        """Ends a block of `fit`, and runs one of the other loop."""
        jax.block_until_ready((state.params, metrics))
        self.seconds["fit"].append(time.perf_counter() - self.began)
        self.seconds["bare"].append(self.block())
        self.began = time.perf_counter()

    def block(self):
        """Seconds for some steps by hand."""
        began = time.perf_counter()
        for _ in range(self.steps):
            start = self.i * BATCH % len(self.order)
            rows = self.order[start : start + BATCH]
            self.params, self.opt_state, metrics = self.step(
                self.params, self.opt_state, self.arrays, rows
            )
            self.i += 1
        jax.block_until_ready((self.params, metrics))
        return time.perf_counter() - began


def measure(model, steps, blocks):
    """Milliseconds a step: the medians over the blocks, the first of each left out."""
    data = columns(model)
    turns = Turns(model, data, steps)
    text = isinstance(model, GPT)
    objective = (jdl.objectives.next_token if text else jdl.objectives.classify)(model)
    learner = jdl.descent(objective, optax.adamw(1e-3))
    config = jdl.Config(name="overhead", steps=steps * (blocks + 1) + 1)
    loader = jdl.data.arrays(**data).shuffled(BATCH, 0)
    run = jdl.Run(config, learner, loader, hooks=((steps, turns.hook),))
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()):
        jdl.fit(run, jdl.Options(root=Path(root), eval_every=0, save_every=0))
    return {name: 1e3 * statistics.median(s[1:]) / steps for name, s in turns.seconds.items()}


def main():
    """Prints a line a model."""
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, {device}, {os.cpu_count()} cores, batch {BATCH}; ms a step")
    print(f"{'model':<24} {'fit':>8} {'bare':>8} {'ratio':>7}")
    for name, case in CASES.items():
        if len(sys.argv) > 1 and not any(word in name for word in sys.argv[1:]):
            continue
        ms = measure(*case)
        ratio = ms["fit"] / ms["bare"]
        print(f"{name:<24} {ms['fit']:8.3f} {ms['bare']:8.3f} {ratio:7.3f}", flush=True)


if __name__ == "__main__":
    main()
