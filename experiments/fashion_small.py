"""Fashion-MNIST: a ResNet, taught to one of half its width, in weights of 4 bits.

scripts/train experiments/fashion_small.py --name teacher --width 16
"""

from dataclasses import dataclass

import jdl
from jdl.data import random_crop, random_flip
from jdl.models.resnet import ResNet


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 2_500
    batch: int = 128
    lr: float = 3e-3
    width: int = 8
    teacher: str = ""  # a run of this script, of twice the width


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.tfds("fashion_mnist")
    w = c.width
    model = ResNet(10, stages=((w, 0), (2 * w, 1), (4 * w, 1), (8 * w, 1)))
    objective = jdl.objectives.classify(model)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps), 5e-2))
    batches = train.shuffled(c.batch, c.seed, random_flip(), random_crop(1))
    return jdl.Run(c, learner, batches, test=test.batches(500))


if __name__ == "__main__":
    jdl.main(run, Config)
