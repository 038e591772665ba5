"""Pendulum by PPO, 8 seeds in one program: return -190, at least -243 (79 s).

scripts/train experiments/pendulum_ppo.py
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.actor_critic import ActorCritic


@dataclass(frozen=True)
class Config(jdl.Config):
    """409,600 steps in 8 environments in parallel; `seeds` count up from the seed."""

    steps: int = 100
    lr: float = 1e-3
    num_envs: int = 8
    seeds: int = 8


def run(c: Config) -> jdl.Run:
    environment = jdl.environments.pendulum()
    rate = optax.linear_schedule(c.lr, 0.0, c.steps * 640)  # 640 updates a step
    optimizer = jdl.optim.clip_gradients(optax.adam(rate, eps=1e-5), 0.5)
    model = ActorCritic(1, log_stds=1)
    sizes = {"num_steps": 512, "update_epochs": 10, "num_minibatches": 64}
    learner = jdl.ppo(environment, model, optimizer, **sizes, gamma=0.9, entropy_coef=0.0)
    members = jdl.population(learner, range(c.seed, c.seed + c.seeds))
    train, test = jdl.data.episodes(c.num_envs), jdl.data.episodes(100)
    return jdl.Run(c, members, train, test=test, best="max return/mean")


if __name__ == "__main__":
    jdl.main(run, Config)
