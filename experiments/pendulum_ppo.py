"""Swings a pendulum up and holds it by PPO, 8 seeds in one program: return -182, at least -219 (38 s; on a Xeon -189).

scripts/train experiments/pendulum_ppo.py
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.actor_critic import ActorCritic


@dataclass(frozen=True)
class Config(jdl.Config):
    """The first of the `seeds` is the seed."""

    steps: int = 100
    lr: float = 1e-3
    episodes: int = 8
    seeds: int = 8


def run(c: Config) -> jdl.Run:
    environment = jdl.environments.pendulum()
    rate = optax.linear_schedule(c.lr, 0.0, c.steps * 640)  # updates in a step
    optimizer = jdl.optim.clip_gradients(optax.adam(rate, eps=1e-5), 0.5)
    model = ActorCritic(1, log_stds=1)
    learner = jdl.ppo(
        environment, model, optimizer, 512, epochs=10, minibatches=64, discount=0.9, entropy=0.0
    )
    members = jdl.population(learner, range(c.seed, c.seed + c.seeds))
    episodes, judged = jdl.data.episodes(c.episodes), jdl.data.episodes(100)
    return jdl.Run(c, members, episodes, test=judged, best="max return/mean")


if __name__ == "__main__":
    jdl.main(run, Config)
