"""Two moons by RealNVP: test NLL 1.893 nats (seed 0), of standardized rows, in 114 s.

A mixture of 16 Gaussians reaches 1.814, the true density 1.804 (scripts/bench flows moons).
scripts/train experiments/moons_flow.py
"""

from dataclasses import dataclass

from sklearn.datasets import make_moons

import jdl
from jdl.models.realnvp import RealNVP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 2_000
    batch: int = 256
    lr: float = 2e-3


def run(c: Config) -> jdl.Run:
    x, _ = make_moons(10_000, noise=0.1, random_state=0)
    splits = jdl.data.arrays(x=x).split(0.6, 0.2, 0.2)
    train, valid, test = jdl.data.standardize(*splits)
    objective = jdl.objectives.normalizing_flow(RealNVP(8, hidden=(64, 64)))
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps))
    learner = jdl.ema(jdl.descent(objective, optimizer))
    batches = train.shuffled(c.batch, c.seed), valid.batches(1_000), test.batches(1_000)
    return jdl.Run(c, learner, *batches, best="min nll")


if __name__ == "__main__":
    jdl.main(run, Config)
