"""Modules that a file of Python's standard library imports: recall@10 0.314, NDCG@10 0.180.

Seed 0, Python 3.11.7, 5 minutes on 2 busy cores of an AMD EPYC. Item-kNN: 0.260 and 0.155, most
popular: 0.199 and 0.109 (scripts/bench imports). Settings were chosen in sight of these results.
scripts/train experiments/stdlib_imports.py
"""

from dataclasses import dataclass

import jdl
from jdl.models.factorization import MatrixFactorization
from jdl.models.sasrec import SASRec
from jdl.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 600
    batch: int = 128
    lr: float = 5e-3
    width: int = 64
    factorization: bool = False  # matrix factorization, which does not know the order


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.stdlib_imports()
    length = train.max_length
    sizes = TransformerConfig(c.width, 1, 1, max_length=length, rotary=False, dropout=0.3)
    model = SASRec(len(train.labels), sizes)
    if c.factorization:
        table = MatrixFactorization(len(train.users), len(train.labels), c.width)
        model = jdl.adapt_model(table, inputs=("user",))
    objective = jdl.objectives.recommend(model)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    data = train.shuffled(c.batch, c.seed, jdl.data.shuffle_items), valid.batches(256)
    return jdl.Run(c, learner, *data, test=test.batches(256), best="max ndcg_at_10")


if __name__ == "__main__":
    jdl.main(run, Config)
