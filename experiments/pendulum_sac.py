"""Pendulum by SAC, 5 seeds in one program: return -144, at least -146 (170 s of CPU time).

scripts/train experiments/pendulum_sac.py
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    """16,000 environment steps, an update for each; `seeds` count up from the seed."""

    steps: int = 2_000
    lr: float = 1e-3
    hidden: tuple[int, ...] = (64, 64)
    seeds: int = 5


def run(c: Config) -> jdl.Run:
    environment = jdl.environments.pendulum()
    sizes = {"num_steps": 8, "num_updates": 8, "buffer_size": 16_000, "batch_size": 128}
    actor, critic, optimizer = MLP(2, c.hidden), MLP(1, c.hidden), optax.adam(c.lr)
    learner = jdl.sac(environment, actor, critic, optimizer, **sizes, learning_starts=100)
    members = jdl.population(learner, range(c.seed, c.seed + c.seeds))
    train, test = jdl.data.episodes(1), jdl.data.episodes(100)
    return jdl.Run(c, members, train, test=test, best="max return/mean")


if __name__ == "__main__":
    jdl.main(run, Config)
