"""CartPole by DQN, 8 seeds in one program: return 500 of 500 for each (3:19).

scripts/train experiments/cartpole_dqn.py
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    """As CleanRL's DQN: 500,000 environment steps, one update in 10; seeds count up from `seed`."""

    steps: int = 50_000
    lr: float = 2.5e-4
    hidden: tuple[int, ...] = (120, 84)
    seeds: int = 8


def run(c: Config) -> jdl.Run:
    environment = jdl.environments.cartpole()
    epsilon = optax.linear_schedule(1.0, 0.05, c.steps // 2)
    learner = jdl.dqn(environment, MLP(2, c.hidden), optax.adam(c.lr), epsilon)
    members = jdl.population(learner, range(c.seed, c.seed + c.seeds))
    train, test = jdl.data.episodes(1), jdl.data.episodes(100)
    return jdl.Run(c, members, train, test=test, best="max return/mean")


if __name__ == "__main__":
    jdl.main(run, Config)
