"""CartPole by PPO, 20 seeds in one program: return 500 of 500 for each, in 98 s.

scripts/train experiments/cartpole_ppo.py
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.actor_critic import ActorCritic


@dataclass(frozen=True)
class Config(jdl.Config):
    """As CleanRL's PPO: 500,000 environment steps, 4 in parallel; seeds count up from `seed`."""

    steps: int = 976
    lr: float = 2.5e-4
    num_envs: int = 4
    seeds: int = 20


def run(c: Config) -> jdl.Run:
    environment = jdl.environments.cartpole()
    rate = optax.linear_schedule(c.lr, 0.0, c.steps * 16)  # 16 optimizer updates per training step
    optimizer = jdl.optim.clip_gradients(optax.adam(rate, eps=1e-5), 0.5)
    learner = jdl.ppo(
        environment, ActorCritic(2), optimizer, num_steps=128, update_epochs=4, num_minibatches=4
    )
    members = jdl.population(learner, range(c.seed, c.seed + c.seeds))
    train, test = jdl.data.episodes(c.num_envs), jdl.data.episodes(100)
    return jdl.Run(c, members, train, test=test, best="max return/mean")


if __name__ == "__main__":
    jdl.main(run, Config)
