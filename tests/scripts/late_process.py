"""A training whose second process traces its step 40 s later than the first."""

import time
from dataclasses import dataclass

import flax.linen as nn
import jax
import optax

import jdl


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 10


class Late(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        if train and jax.process_index() == 1:
            time.sleep(40)
        return nn.Dense(10)(x.reshape(len(x), -1))


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digits()
    learner = jdl.descent(jdl.objectives.classify(Late()), optax.adam(1e-3))
    return jdl.Run(c, learner, train.shuffled(32, c.seed), test=test.batches(64))


if __name__ == "__main__":
    jdl.main(run, Config)
