"""Products so large that XLA divides them among the threads of its pool, whose size shows."""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 3
    batch: int = 512  # 128 in each of 4 shards


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digits()
    objective = jdl.objectives.classify(MLP(10, hidden=(512, 256)))
    learner = jdl.descent(objective, optax.adam(1e-2))
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed), test=test.batches(c.batch))


if __name__ == "__main__":
    jdl.main(run, Config)
