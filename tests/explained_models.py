"""Small models to explain."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jdl
from jdl.inspect.restore import TrainedRun
from jdl.models.mlp import MLP
from jdl.objectives import classify

KEY = jax.random.key(0)


def made(model, shape=(3, 5), seed=0):
    """An untrained classifier, and a batch of random rows."""
    x = jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
    objective, batch = classify(model), {"x": x}
    return objective, objective.init(KEY, batch), batch


class Plain(nn.Module):
    """A CNN of Flax alone: one convolution, global average pooling, one dense layer."""

    classes: int = 3

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
        return nn.Dense(self.classes, name="head")(x.mean((1, 2)))


@cache
def trained_digits():
    """An MLP of the digits, trained for a moment."""
    train, test = jdl.data.digits()
    learner = jdl.descent(classify(MLP(10, (32,))), optax.adam(1e-2))
    run = jdl.Run(
        jdl.Config(name="digits", steps=60),
        learner,
        train.shuffled(64, 0),
        test=test.select(slice(100)).batches(64),
    )
    state = jax.jit(learner.init)(KEY, run.train[0])
    step = jax.jit(learner.step)
    for n in range(60):
        state, _ = step(state, run.train[n])
    return TrainedRun(run, state)
