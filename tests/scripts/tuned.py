"""A network so small that a study of it trains in a moment."""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 8
    batch: int = 32
    lr: float = 1e-2
    hidden: tuple[int, ...] = (8,)
    dropout: float = 0.1
    validates: bool = True


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digits()
    train, valid = train.split(0.8, 0.2)
    objective = jdl.objectives.classify(MLP(10, c.hidden, dropout=c.dropout))
    learner = jdl.descent(objective, optax.adam(c.lr))
    evaluated = valid.batches(200) if c.validates else None
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed), evaluated, test.batches(200))
