"""A small MLP with 2,700 labels, taught by one that saw 54,000: 83.8, 83.4, 83.6%, Fashion-MNIST.

scripts/train experiments/fashion_distil.py  # the student alone: 82.7, 82.4, 82.7%; 18 CPU-s
scripts/train experiments/fashion_distil.py --teacher run:teacher  # taught, 36 CPU-s of an AMD EPYC
The teacher: --name teacher --share 1 --steps 4210 --hidden 512 256 --dropout 0.3  # 99 CPU-s, 88.9%
"""

from dataclasses import dataclass

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 2_000
    batch: int = 128
    hidden: tuple[int, ...] = (64,)
    dropout: float = 0.0
    share: float = 0.05  # of the training rows
    teacher: str = ""  # a run of this script
    temperature: float = 1.0
    weight: float = 0.9


def run(c: Config) -> jdl.Run:
    data, test = jdl.data.tfds("fashion_mnist")
    train, valid = data.split(0.9, 0.1, stratify="y")
    rows = train.split(c.share, stratify="y")[0]
    objective = jdl.objectives.classify(MLP(10, c.hidden, dropout=c.dropout))
    if c.teacher:
        teacher = jdl.pretrained(MLP(10, (512, 256)), jdl.weights.load(c.teacher))
        objective = jdl.distil(objective, teacher, c.temperature, c.weight)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(1e-3, c.steps)))
    batches = rows.shuffled(c.batch, c.seed)
    return jdl.Run(c, learner, batches, valid.batches(500), test.batches(500))


if __name__ == "__main__":
    jdl.main(run, Config)
