"""Not measured yet.

scripts/train experiments/stdlib_imports.py
scripts/train experiments/stdlib_imports.py --model factorization
"""

from dataclasses import dataclass
from typing import Literal

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
    model: Literal["sasrec", "factorization"] = "sasrec"


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.stdlib_imports()
    length = train.max_length
    sizes = TransformerConfig(c.width, 1, 1, max_length=length, rotary=False, dropout=0.3)
    model = SASRec(len(train.labels), sizes)
    if c.model == "factorization":
        model = MatrixFactorization(len(train.users), len(train.labels), c.width)
        model = jdl.adapt_model(model, inputs=("user",))
    objective = jdl.objectives.recommend(model)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    data = train.shuffled(c.batch, c.seed, jdl.data.shuffle_items), valid.batches(256)
    return jdl.Run(c, learner, *data, test=test.batches(256), best="max ndcg_at_10")


if __name__ == "__main__":
    jdl.main(run, Config)
