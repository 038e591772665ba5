"""Lottery tickets, an MLP 98.4% pruned: digits 94.7 to 95.5%; 32 to 51% pruned at random places.

scripts/train experiments/digits_lottery.py --name round0
scripts/train experiments/digits_lottery.py --name round1 --ticket run:round0 --sparsity 0.5
And so on to round 6, 0.984375; then --ticket run:round6 --random. 16 CPU-s a run, an AMD EPYC.
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 500
    batch: int = 128
    ticket: str = ""  # a run of this script: what is left of it begins anew
    sparsity: float = 0.0
    random: bool = False  # as many weights of each array are left, at random places


def run(c: Config) -> jdl.Run:
    (train, test), model = jdl.data.digits(), MLP(10, hidden=(256, 128))
    objective = jdl.objectives.classify(model)
    if c.ticket:
        trained = jdl.objectives.classify(jdl.pretrained(model, jdl.weights.load(c.ticket)))
        objective = jdl.learners.lottery_ticket(objective, trained, c.sparsity, c.random)
    learner = jdl.prune(jdl.descent(objective, optax.adam(3e-3)), c.sparsity)
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed), test=test.batches(c.batch))


if __name__ == "__main__":
    jdl.main(run, Config)
