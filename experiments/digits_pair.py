"""Digits with an MLP of plain functions, without Flax: not measured yet.

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
    batch: int = 128
    lr: float = 3e-3


def init(key):
    a, b = jax.random.split(key)
    he = jax.nn.initializers.he_normal()
    return {"w1": he(a, (64, 256)), "b1": jnp.zeros((1, 256)), "w2": he(b, (256, 10))}


def apply(params, x, train, key):
    x = jax.nn.relu(x.reshape(len(x), -1) @ params["w1"] + params["b1"])
    if train:  # dropout
        x = jnp.where(jax.random.bernoulli(key, 0.8, x.shape), x / 0.8, 0)
    return x @ params["w2"]


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digits()
    objective = jdl.objectives.classify(jdl.Model(init, apply))
    learner = jdl.descent(objective, optax.adamw(optax.cosine_decay_schedule(c.lr, c.steps)))
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed), test=test.batches(c.batch))


if __name__ == "__main__":
    jdl.main(run, Config)
