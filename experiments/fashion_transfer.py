"""Garments with 50 labels a class, from digits: 79.5, 80.4, 81.0%; from scratch 80.2, 79.6, 81.0%.

scripts/train experiments/fashion_transfer.py --begin run:mnist  # no gain; 21 CPU-s of an AMD EPYC
The digits: --name mnist --data mnist --labels 5000 --batch 128 --steps 1000  # 81 CPU-s, 98.6%
"""

from dataclasses import dataclass

import jdl
from jdl.models.cnn import CNN


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 500
    batch: int = 50
    data: str = "fashion_mnist"
    labels: int = 50  # of each class
    begin: str = ""  # a run of this script
    frozen: str = ""  # what is not trained, as in jdl.freeze
    hold_statistics: bool = True


def run(c: Config) -> jdl.Run:
    data, test = jdl.data.tfds(c.data)
    train, valid = data.split(0.9, 0.1, stratify="y")
    rows = train.split(min(1.0, 10 * c.labels / len(train)), seed=c.seed, stratify="y")[0]
    model = CNN(10, blocks=((16, 1), (32, 1)), dense=(64,), batch_norm=True)
    if c.begin:
        model = jdl.pretrained(model, jdl.weights.load(c.begin), skip="head/Dense_1/")
    objective = jdl.objectives.classify(model)
    if c.frozen:
        objective = jdl.freeze(objective, c.frozen, c.hold_statistics)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(1e-3, c.steps)))
    batches = rows.shuffled(c.batch, c.seed)
    return jdl.Run(c, learner, batches, valid.batches(500), test.batches(500))


if __name__ == "__main__":
    jdl.main(run, Config)
