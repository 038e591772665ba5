"""A training step of jdl beside the same step written by hand in JAX, in PyTorch and in Keras.

Forward, backward and AdamW, of models of equal shapes and parameters, each built of its library's
own layers. All take turns, some steps each, in one process. Printed: the medians of a step in ms,
and the ratios to jdl, whose step alone computes accuracy and the norms of gradients, updates and
parameters besides the loss.

All keep freed memory as jdl does (`keep_memory`); `scripts/bench peers fresh` leaves malloc as it
is.
"""

import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

os.environ["KERAS_BACKEND"] = "jax"

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jdl
from jdl.learners import jit_learner
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.rnn import RNN
from jdl.models.transformer import TransformerConfig
from jdl.train.malloc import keep_memory

CLASSES, VOCABULARY, LENGTH, WIDTH, DEPTH, HEADS = 10, 258, 128, 128, 4, 4
RATE, DECAY, ROUNDS = 1e-3, 1e-4, 9
STEPS = {
    "MLP 784-512-256-10": 20,
    "CNN 32-64, dense 128": 2,
    "LSTM 128, 28 steps": 5,
    "GPT 4 x 128, 128 steps": 1,
}
RNG = np.random.default_rng(0)
IMAGES = RNG.random((128, 28, 28, 1), np.float32)
LABELS = RNG.integers(0, CLASSES, 128).astype(np.int32)
TOKENS = RNG.integers(0, VOCABULARY, (32, LENGTH + 1)).astype(np.int32)
BATCHES = (  # inputs and targets for each model
    (IMAGES.reshape(128, -1), LABELS),
    (IMAGES, LABELS),
    (IMAGES[..., 0], LABELS),
    (TOKENS[:, :-1], TOKENS[:, 1:]),
)
Stepper = tuple[
    Callable[[], object], int
]  # one step, to its end; and how many parameters it trains


def of_jdl() -> list[Stepper]:
    """`jdl.descent`, compiled as `fit` does."""
    blocks = TransformerConfig(
        width=WIDTH, depth=DEPTH, heads=HEADS, max_length=LENGTH, rotary=False
    )
    models = (MLP(CLASSES, hidden=(512, 256)), CNN(CLASSES), RNN(CLASSES, hidden=(128,)))
    objectives = [jdl.objectives.classify(model) for model in models]
    objectives.append(jdl.objectives.next_token(GPT(VOCABULARY, blocks)))
    batches = [{"x": jnp.asarray(x), "y": jnp.asarray(y)} for x, y in BATCHES[:-1]] + [
        {"x": jnp.asarray(TOKENS)}
    ]

    def stepper(objective: jdl.Objective, batch: jdl.Batch) -> Stepper:
        learner = jit_learner(jdl.descent(objective, optax.adamw(RATE, weight_decay=DECAY)))
        state = learner.init(jax.random.key(0), batch)

        def step() -> None:
            nonlocal state
            state, metrics = learner.step(state, batch)
            jax.block_until_ready((state.params, metrics))

        return step, sum(leaf.size for leaf in jax.tree.leaves(state.params))

    return [stepper(*case) for case in zip(objectives, batches, strict=True)]


def of_flax() -> list[Stepper]:
    """A jitted step written by hand, of Flax Linen's and Optax's parts."""

    class Cnn(nn.Module):
        @nn.compact
        def __call__(self, x):
            for channels in (32, 64):
                x = nn.max_pool(nn.relu(nn.Conv(channels, (3, 3))(x)), (2, 2), (2, 2))
            return nn.Dense(CLASSES)(nn.relu(nn.Dense(128)(x.reshape(len(x), -1))))

    class Last(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(CLASSES)(nn.RNN(nn.OptimizedLSTMCell(128))(x)[:, -1])

    class Gpt(nn.Module):
        @nn.compact
        def __call__(self, x):
            table, mask = nn.Embed(VOCABULARY, WIDTH), nn.make_causal_mask(x)
            x = table(x) + nn.Embed(LENGTH, WIDTH)(jnp.arange(LENGTH))[None]
            for _ in range(DEPTH):
                x = x + nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(x), mask=mask)
                x = x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x))))
            return table.attend(nn.LayerNorm()(x))

    mlp = nn.Sequential([nn.Dense(512), nn.relu, nn.Dense(256), nn.relu, nn.Dense(CLASSES)])

    def stepper(model: nn.Module, batch: tuple) -> Stepper:
        x, y = map(jnp.asarray, batch)
        optimizer = optax.adamw(RATE, weight_decay=DECAY)
        params = jax.jit(model.init)(jax.random.key(0), x)
        opt_state = optimizer.init(params)

        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

        def update(params, opt_state):
            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, value

        update = jax.jit(update, donate_argnums=(0, 1))

        def step() -> None:
            nonlocal params, opt_state
            params, opt_state, _ = jax.block_until_ready(update(params, opt_state))

        return step, sum(leaf.size for leaf in jax.tree.leaves(params))

    return [stepper(*case) for case in zip((mlp, Cnn(), Last(), Gpt()), BATCHES, strict=True)]


def torch_models() -> list:
    """The MLP, CNN, LSTM and GPT in PyTorch."""
    import torch
    from torch.nn import Conv2d, Embedding, Flatten, LayerNorm, Linear, Module, Sequential
    from torch.nn import functional as F

    class Last(Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = torch.nn.LSTM(28, 128, batch_first=True), Linear(128, CLASSES)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    class Attention(Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = Linear(WIDTH, 3 * WIDTH), Linear(WIDTH, WIDTH)

        def forward(self, x):
            q, k, v = self.qkv(x).view(len(x), LENGTH, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(out.transpose(1, 2).reshape(x.shape))

    class Added(Sequential):
        def forward(self, x):
            return x + super().forward(x)

    class Gpt(Module):
        def __init__(self):
            super().__init__()
            self.table, self.places = Embedding(VOCABULARY, WIDTH), Embedding(LENGTH, WIDTH)
            self.blocks = Sequential()
            for _ in range(DEPTH):
                hidden = [
                    Linear(WIDTH, 4 * WIDTH),
                    torch.nn.GELU(approximate="tanh"),
                    Linear(4 * WIDTH, WIDTH),
                ]
                self.blocks.append(Added(LayerNorm(WIDTH), Attention()))
                self.blocks.append(Added(LayerNorm(WIDTH), *hidden))
            self.blocks.append(LayerNorm(WIDTH))

        def forward(self, x):
            return F.linear(self.blocks(self.table(x) + self.places.weight), self.table.weight)

    mlp = Sequential(
        Linear(784, 512), torch.nn.ReLU(), Linear(512, 256), torch.nn.ReLU(), Linear(256, CLASSES)
    )
    cnn = Sequential()
    for inputs, outputs in ((1, 32), (32, 64)):
        cnn.extend([Conv2d(inputs, outputs, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)])
    cnn.extend([Flatten(), Linear(64 * 7 * 7, 128), torch.nn.ReLU(), Linear(128, CLASSES)])
    return [mlp, cnn, Last(), Gpt()]


def of_torch(compile: bool = False) -> list[Stepper]:
    """PyTorch with its fused AdamW, eager or by `torch.compile`."""
    import torch
    from torch.nn import functional as F

    def stepper(model: torch.nn.Module, batch: tuple) -> Stepper:
        x, y = (
            torch.from_numpy(np.ascontiguousarray(batch[0])),
            torch.from_numpy(batch[1].astype(np.int64)),
        )
        x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x
        optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY, fused=True)
        call = torch.compile(model) if compile else model

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(call(x).flatten(0, -2), y.flatten()).backward()
            optimizer.step()

        return step, sum(p.numel() for p in model.parameters())

    return [stepper(*case) for case in zip(torch_models(), BATCHES, strict=True)]


def of_torch_compiled() -> list[Stepper]:
    """PyTorch by `torch.compile`."""
    return of_torch(compile=True)


def of_keras() -> list[Stepper]:
    """Keras on JAX, by `train_on_batch`."""
    import keras
    from keras.layers import LSTM, Conv2D, Dense, Flatten, LayerNormalization, MaxPooling2D

    class Places(keras.Layer):
        def build(self, shape):
            self.places = self.add_weight(shape[1:], "normal")

        def call(self, x):
            return x + self.places

    def gpt(tokens):
        table = keras.layers.ReversibleEmbedding(VOCABULARY, WIDTH)
        x = Places()(table(tokens))
        for _ in range(DEPTH):
            y = LayerNormalization()(x)
            x = x + keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(
                y, y, use_causal_mask=True
            )
            y = Dense(4 * WIDTH, keras.activations.gelu)(LayerNormalization()(x))
            x = x + Dense(WIDTH)(y)
        return table(LayerNormalization()(x), reverse=True)

    def cnn(x):
        for channels in (32, 64):
            x = MaxPooling2D()(Conv2D(channels, 3, padding="same", activation="relu")(x))
        return Dense(CLASSES)(Dense(128, "relu")(Flatten()(x)))

    def mlp(x):
        return Dense(CLASSES)(Dense(256, "relu")(Dense(512, "relu")(x)))

    def last(x):
        return Dense(CLASSES)(LSTM(128)(x))

    def stepper(build: Callable, batch: tuple) -> Stepper:
        inputs = keras.Input(batch[0].shape[1:], dtype=batch[0].dtype)
        model = keras.Model(inputs, build(inputs))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.AdamW(RATE, weight_decay=DECAY), loss)
        return lambda: model.train_on_batch(*batch), model.count_params()

    return [stepper(*case) for case in zip((mlp, cnn, last, gpt), BATCHES, strict=True)]


PEERS = {  # the library that it needs besides ours, and what builds its steps in the order of STEPS
    "jdl": ("jax", of_jdl),
    "jax by hand": ("flax", of_flax),
    "torch eager": ("torch", of_torch),
    "torch compiled": ("torch", of_torch_compiled),
    "keras on jax": ("keras", of_keras),
}


def built(peer: str) -> dict[str, Stepper]:
    """The steppers of a peer that run; of those that do not, says why."""
    library, build = PEERS[peer]
    if importlib.util.find_spec(library) is None:
        print(f"{peer}: not installed; pip install {library} --target DIR, and PYTHONPATH=DIR")
        return {}
    found = {}
    for model, (step, parameters) in zip(STEPS, build(), strict=True):
        try:
            step()
            found[model] = step, parameters
        except Exception as error:
            print(f"{peer}, {model}: {type(error).__name__}: {str(error).splitlines()[0]}")
    return found


def measured(steppers: dict[tuple[str, str], Stepper]) -> dict[tuple[str, str], float]:
    """Milliseconds a step: medians over the rounds, in each of which all take their turns."""
    seconds: dict[tuple[str, str], list[float]] = {case: [] for case in steppers}
    for _ in range(ROUNDS):
        for case, (step, _) in steppers.items():
            step()  # the one before has left threads awake and the caches full
            began = time.perf_counter()
            for _ in range(STEPS[case[0]]):
                step()
            seconds[case].append((time.perf_counter() - began) / STEPS[case[0]])
    return {case: 1e3 * statistics.median(s) for case, s in seconds.items()}


def main() -> None:
    """Builds, checks that sizes agree, measures and prints."""
    fresh = sys.argv[1:] == ["fresh"]
    if not fresh:
        keep_memory()
    steppers = {(model, peer): stepper for peer in PEERS for model, stepper in built(peer).items()}
    for (model, peer), (_, parameters) in steppers.items():
        ours = steppers[model, "jdl"][1]
        if abs(parameters / ours - 1) > 0.01:
            sys.exit(
                f"{model} has {ours} parameters in jdl and {parameters} in {peer}: not the same "
                "work."
            )
    print("compiled; measuring", file=sys.stderr)
    found = measured(dict(sorted(steppers.items())))

    installed = [
        name for name in ("jax", "flax", "torch", "keras") if importlib.util.find_spec(name)
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in installed)
    print(
        f"{versions}; {jax.devices()[0].device_kind}, {os.cpu_count()} cores; memory "
        f"{'fresh' if fresh else 'kept'}"
    )
    print("ms a step (ratio to jdl)")
    print(f"{'model':<24}" + "".join(f"{peer:>18}" for peer in PEERS))
    for model in STEPS:
        print(f"{model:<24}", end="")
        for peer in PEERS:
            ms, ours = found.get((model, peer)), found[model, "jdl"]
            print(f"{f'{ms:.2f} ({ms / ours:.2f})' if ms else '-':>18}", end="")
        print()


if __name__ == "__main__":
    main()
