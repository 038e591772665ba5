"""Breast cancer from 30 measurements by an MLP: ROC AUC 0.993, accuracy 0.968, means of 5 folds.

Expected calibration error 0.027; the rarer class weighs more. 20 s of processor time a fold.
scripts/train experiments/breast_cancer.py --fold 0
"""

from dataclasses import dataclass

from sklearn.datasets import load_breast_cancer

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    fold: int = 0  # from 0 to 4: the fifth of the rows that is the test set
    steps: int = 300
    lr: float = 1e-3


def run(c: Config) -> jdl.Run:
    table = load_breast_cancer()
    data = jdl.data.arrays(x=table.data, y=table.target, labels=table.target_names)
    train, test = data.folds(5, stratify="y")[c.fold]
    train, valid = train.split(0.8, 0.2, stratify="y")
    train, valid, test = jdl.data.standardize(train, valid, test)
    model = MLP(2, hidden=(64, 32), dropout=0.2)
    objective = jdl.objectives.with_metrics(
        jdl.objectives.classify(model, class_weights=jdl.data.class_weights(train)),
        auc=jdl.metrics.roc_auc,
        calibration=jdl.metrics.calibration_error,
    )
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    batches = train.shuffled(32, c.seed), valid.batches(128), test.batches(128)
    return jdl.Run(c, learner, *batches, best="max auc", labels=data.labels)


if __name__ == "__main__":
    jdl.main(run, Config)
