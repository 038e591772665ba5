"""SAC: episodes, replay buffer and target networks are all in the state."""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 60


def run(c: Config) -> jdl.Run:
    sizes = {"num_steps": 8, "num_updates": 2, "buffer_size": 320, "batch_size": 16}
    environment, actor, critic = jdl.environments.pendulum(), MLP(2, (16,)), MLP(1, (16,))
    learner = jdl.sac(environment, actor, critic, optax.adam(1e-3), **sizes, learning_starts=10)
    return jdl.Run(c, learner, jdl.data.episodes(2), test=jdl.data.episodes(5), best="max return")


if __name__ == "__main__":
    jdl.main(run, Config)
