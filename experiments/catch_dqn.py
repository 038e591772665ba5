"""Catch by DQN (double, dueling, prioritized), 5 seeds: return 1 of 1 for each (62 s of CPU time).

scripts/train experiments/catch_dqn.py
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.learners import PrioritizedReplay
from jdl.models.cnn import CNN
from jdl.models.q_network import Dueling


@dataclass(frozen=True)
class Config(jdl.Config):
    """8,000 environment steps a seed, an update in each 8; `seeds` count up from the seed."""

    steps: int = 1_000
    lr: float = 1e-3
    width: int = 16
    seeds: int = 5


def run(c: Config) -> jdl.Run:
    environment = jdl.environments.catch()
    model = Dueling(3, CNN(64, blocks=((c.width, 1),), dense=(), pool=lambda x: x))
    epsilon = optax.linear_schedule(1.0, 0.05, c.steps // 2)
    replay = PrioritizedReplay(beta=optax.linear_schedule(0.4, 1.0, c.steps))
    options = {"num_steps": 1, "buffer_size": 8_000, "batch_size": 32, "learning_starts": 50}
    options |= {"double": True, "prioritized": replay}
    learner = jdl.dqn(environment, model, optax.adam(c.lr), epsilon, **options)
    members = jdl.population(learner, range(c.seed, c.seed + c.seeds))
    train, test = jdl.data.episodes(8), jdl.data.episodes(100)
    return jdl.Run(c, members, train, test=test, best="max return/mean")


if __name__ == "__main__":
    jdl.main(run, Config)
