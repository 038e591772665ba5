"""Fashion-MNIST: an MLP of 26,000 parameters taught by one of 536,000: not measured yet.

jdl data prepare fashion_mnist --from DIR
scripts/train experiments/fashion_distil.py --name fashion_teacher --hidden 512 256 --dropout 0.3
scripts/train experiments/fashion_distil.py --teacher run:fashion_teacher
scripts/train experiments/fashion_distil.py  # the same student alone
"""

from dataclasses import dataclass

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 2_000
    batch: int = 128
    lr: float = 1e-3
    hidden: tuple[int, ...] = (64,)
    dropout: float = 0.0
    share: float = 0.05  # of the training rows
    teacher: str = ""  # a run of this script
    temperature: float = 4.0
    weight: float = 0.9


def run(c: Config) -> jdl.Run:
    data, test = jdl.data.tfds("fashion_mnist")
    train, valid = data.split(0.9, 0.1, stratify="y")
    if c.share < 1:
        train, _ = train.split(c.share, 1 - c.share, stratify="y")
    objective = jdl.objectives.classify(MLP(10, c.hidden, dropout=c.dropout))
    if c.teacher:
        teacher = jdl.pretrained(MLP(10, (512, 256)), jdl.weights.load(c.teacher))
        objective = jdl.distil(objective, teacher, c.temperature, c.weight)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    batches = train.shuffled(c.batch, c.seed)
    return jdl.Run(c, learner, batches, valid.batches(500), test.batches(500), labels=train.labels)


if __name__ == "__main__":
    jdl.main(run, Config)
