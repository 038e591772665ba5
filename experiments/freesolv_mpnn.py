"""Free energy of hydration of molecules: not measured yet.

jdl data fetch freesolv
scripts/train experiments/freesolv_mpnn.py --fold 0
"""

from dataclasses import dataclass

import jdl
from jdl.models.mpnn import MPNN


@dataclass(frozen=True)
class Config(jdl.Config):
    fold: int = 0  # from 0 to 4: the fifth of the molecules that is the test set
    steps: int = 1_000
    batch: int = 32
    lr: float = 2e-3
    width: int = 32
    virtual_node: bool = True


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.freesolv().folds(5)[c.fold]
    train, valid = train.split(0.9, 0.1)
    model = MPNN(1, c.width, virtual_node=c.virtual_node)
    objective = jdl.objectives.regress(model)
    objective = jdl.objectives.with_metrics(objective, rmse=jdl.metrics.rmse)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    data = train.shuffled(c.batch, c.seed), valid.batches(64), test.batches(129)
    return jdl.Run(c, learner, *data, best="min rmse")


if __name__ == "__main__":
    jdl.main(run, Config)
