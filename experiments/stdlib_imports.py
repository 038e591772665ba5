"""Not measured yet.

scripts/train experiments/stdlib_imports.py
scripts/train experiments/stdlib_imports.py --model mf
"""

from dataclasses import dataclass
from typing import Literal

import jdl
from jdl.models.factorization import MatrixFactorization
from jdl.models.sasrec import SASRec
from jdl.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 400
    batch: int = 64
    lr: float = 2e-3
    width: int = 64
    dropout: float = 0.3
    decay: float = 1e-4
    model: Literal["sasrec", "mf", "mf-bpr"] = "sasrec"


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.stdlib_imports()
    users, items = len(train.users), len(train.labels)
    if c.model == "sasrec":
        sizes = TransformerConfig(
            c.width, 2, heads=1, max_length=train.max_length, rotary=False, dropout=c.dropout)
        model = SASRec(items, sizes)
    else:
        model = jdl.adapt_model(MatrixFactorization(users, items, c.width), inputs=("user",))
    objective = jdl.objectives.recommend(model, "bpr" if c.model == "mf-bpr" else "softmax")
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps), weight_decay=c.decay))
    data = train.shuffled(c.batch, c.seed), valid.batches(256), test.batches(256)
    return jdl.Run(c, learner, *data, best="max ndcg_at_10")


if __name__ == "__main__":
    jdl.main(run, Config)
