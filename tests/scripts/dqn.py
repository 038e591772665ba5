"""Double, prioritized DQN of two seeds: episodes, buffer, target network are in the state."""

from dataclasses import dataclass

import optax

import jdl
from jdl.learners import PrioritizedReplay
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 60


def run(c: Config) -> jdl.Run:
    epsilon, adam = optax.linear_schedule(1.0, 0.05, 30), optax.adam(1e-3)
    sizes = {"num_steps": 8, "buffer_size": 320, "batch_size": 16}
    when = {"learning_starts": 10, "target_update_every": 7}
    options = {"double": True, "prioritized": PrioritizedReplay(lambda step: 0.4)}
    learner = jdl.dqn(
        jdl.environments.cartpole(), MLP(2, (16,)), adam, epsilon, **sizes, **when, **options
    )
    members = jdl.population(learner, (c.seed, c.seed + 1))
    return jdl.Run(
        c, members, jdl.data.episodes(2), test=jdl.data.episodes(5), best="max return/mean"
    )


if __name__ == "__main__":
    jdl.main(run, Config)
