"""Steps of `scripts/bench peers` on JAX: of jdl, by hand in Flax Linen, and of Keras.

A process of its own for each: scripts/bench_peers.py starts it.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

os.environ["KERAS_BACKEND"] = "jax"

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from bench_peers import (
    CLASSES,
    DECAY,
    DEPTH,
    ENVIRONMENTS,
    EPOCHS,
    HEADS,
    LATENT,
    LENGTH,
    MINIBATCHES,
    PATCH,
    PEERS,
    RATE,
    ROLLOUT,
    VOCABULARY,
    WIDTH,
    Stepper,
    answer,
    batch_of,
)

import jdl
from jdl.learners import jit_learner
from jdl.models.actor_critic import ActorCritic
from jdl.models.autoencoder import VAE
from jdl.models.cnn import CNN
from jdl.models.dcgan import Discriminator, Generator
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.rnn import RNN
from jdl.models.transformer import TransformerConfig
from jdl.models.vit import ViT
from jdl.train.malloc import keep_memory
from jdl.train.thread_pool import fix_thread_pool_size

BLOCKS = TransformerConfig(width=WIDTH, depth=DEPTH, heads=HEADS, max_length=LENGTH, rotary=False)
IMAGE = (28, 28, 1)
OBJECTIVES: dict[str, Callable[[], jdl.Objective]] = {
    "mlp": lambda: jdl.objectives.classify(MLP(CLASSES, hidden=(512, 256))),
    "cnn": lambda: jdl.objectives.classify(CNN(CLASSES)),
    "lstm": lambda: jdl.objectives.classify(RNN(CLASSES, hidden=(128,))),
    "gpt": lambda: jdl.objectives.next_token(GPT(VOCABULARY, BLOCKS)),
    "vit": lambda: jdl.objectives.classify(ViT(CLASSES, PATCH, BLOCKS)),
    "vae": lambda: jdl.objectives.elbo(VAE(IMAGE, LATENT, (32, 64), (256,))),
    "gan": lambda: jdl.objectives.adversarial(Generator(IMAGE), Discriminator(), LATENT),
}


def count(params) -> int:
    """How many numbers there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def of_jdl(row: str) -> Stepper:
    """A step of the learner, compiled as `fit` does."""
    if row == "ppo":
        adam = jdl.optim.clip_gradients(optax.adam(2.5e-4, eps=1e-5), 0.5)
        environment = jdl.environments.cartpole()
        learner = jdl.ppo(environment, ActorCritic(2), adam, ROLLOUT, EPOCHS, MINIBATCHES)
        batch = jdl.data.episodes(ENVIRONMENTS)[0]
    else:
        x, y = batch_of(row)
        learner = jdl.descent(OBJECTIVES[row](), optax.adamw(RATE, weight_decay=DECAY))
        batch = {"x": jnp.asarray(x), "y": jnp.asarray(y)}
        if row == "gpt":
            batch = {"x": jnp.concatenate([batch["x"], batch["y"][:, -1:]], 1)}
    learner = jit_learner(learner)
    state = learner.init(jax.random.key(0), batch)

    def step() -> None:
        nonlocal state
        state, metrics = learner.step(state, batch)
        jax.block_until_ready((state.params, metrics))

    return step, count(state.params)


def flax_model(row: str) -> nn.Module:
    """A model of Flax Linen's layers."""

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
    return {"mlp": mlp, "cnn": Cnn(), "lstm": Last(), "gpt": Gpt()}[row]


def by_hand(row: str) -> Stepper:
    """A jitted step written by hand, of Flax Linen's and Optax's parts."""
    model, (x, y) = flax_model(row), map(jnp.asarray, batch_of(row))
    optimizer = optax.adamw(RATE, weight_decay=DECAY)
    params = jax.jit(model.init)(jax.random.key(0), x)
    opt_state = optimizer.init(params)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params, opt_state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    def step() -> None:
        nonlocal params, opt_state
        params, opt_state, _ = jax.block_until_ready(update(params, opt_state))

    return step, count(params)


def keras_models() -> dict[str, Callable]:
    """By row, what makes the outputs of Keras's layers from an input."""
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

    return {"mlp": mlp, "cnn": cnn, "lstm": last, "gpt": gpt}


def of_keras(row: str) -> Stepper:
    """Keras on JAX, by `train_on_batch`."""
    import keras

    batch = batch_of(row)
    inputs = keras.Input(batch[0].shape[1:], dtype=batch[0].dtype)
    model = keras.Model(inputs, keras_models()[row](inputs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(RATE, weight_decay=DECAY), loss)
    return lambda: model.train_on_batch(*batch), model.count_params()


BUILDERS = {"jdl": of_jdl, "jax by hand": by_hand, "keras on jax": of_keras}


def build(peer: str, row: str) -> tuple[Stepper, str]:
    """The step, and what it is of."""
    names = {"jdl": ("jax", "flax"), "jax by hand": ("jax", "flax"), "keras on jax": ("keras",)}
    stepper = BUILDERS[peer](row)
    return stepper, ", ".join(f"{name} {version(name)}" for name in names[peer])


if __name__ == "__main__":
    peer, row = sys.argv[1:3]
    if peer == "jdl":
        fix_thread_pool_size()
    if sys.argv[3:] != ["fresh"]:
        keep_memory()
    answer(PEERS[peer].library, partial(build, peer, row))
