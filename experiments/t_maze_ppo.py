"""T-maze.

scripts/train experiments/t_maze_ppo.py
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.actor_critic import ActorCritic, RecurrentActorCritic
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    """Steps of 16 episodes in parallel, 64 each; `seeds` count up from the seed."""

    steps: int = 400
    lr: float = 4e-3
    recurrent: bool = True
    seeds: int = 5


def run(c: Config) -> jdl.Run:
    environment = jdl.environments.t_maze()
    model = RecurrentActorCritic(4, MLP(64)) if c.recurrent else ActorCritic(4)
    rate = optax.linear_schedule(c.lr, 0.0, c.steps * 16)  # 16 optimizer updates per training step
    optimizer = jdl.optim.clip_gradients(optax.adam(rate, eps=1e-5), 0.5)
    learner = jdl.ppo(environment, model, optimizer, num_steps=64)
    members = jdl.population(learner, range(c.seed, c.seed + c.seeds))
    train, test = jdl.data.episodes(16), jdl.data.episodes(100)
    return jdl.Run(c, members, train, test=test, best="max return/mean")


if __name__ == "__main__":
    jdl.main(run, Config)
