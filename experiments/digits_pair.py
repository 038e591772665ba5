"""Digits with an MLP of two functions: test accuracy 97.2 to 97.8% (seeds 0 to 2), in 14 CPU-s.

scripts/train experiments/digits_pair.py
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

import jdl


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1_000


def init(key):
    he, (one, two) = jax.nn.initializers.he_normal(), jax.random.split(key)
    return he(one, (64, 256)), he(two, (256, 10))


def apply(params, x, train, key):
    x = jax.nn.relu(x.reshape(x.shape[0], -1) @ params[0])
    if train:  # dropout
        x = jnp.where(jax.random.bernoulli(key, 0.8, x.shape), x / 0.8, 0)
    return x @ params[1]


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digits()
    objective = jdl.objectives.classify(jdl.Model(init, apply))
    learner = jdl.descent(objective, optax.adamw(optax.cosine_decay_schedule(3e-3, c.steps)))
    return jdl.Run(c, learner, train.shuffled(128, c.seed), test=test.batches(128))


if __name__ == "__main__":
    jdl.main(run, Config)
