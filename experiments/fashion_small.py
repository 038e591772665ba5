"""Fashion-MNIST: a ResNet, taught to one of half its width, in weights of 4 bits.

scripts/train experiments/fashion_small.py --name teacher --width 16
scripts/train experiments/fashion_small.py --name student --teacher run:teacher
scripts/train experiments/fashion_small.py --teacher run:teacher --student run:student --steps 600 --lr 3e-4
"""

from dataclasses import dataclass

import jdl
from jdl.data import random_crop, random_flip
from jdl.models.resnet import ResNet


def resnet(width: int) -> ResNet:
    return ResNet(10, stages=((width, 0), (2 * width, 1), (4 * width, 1), (8 * width, 1)))


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 2_500
    lr: float = 3e-3
    width: int = 8
    teacher: str = ""  # a run of this script, of twice the width
    student: str = ""  # a run that goes on, in 4 bits


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.tfds("fashion_mnist")
    model = resnet(c.width)
    if c.student:
        model = jdl.pretrained(model, jdl.weights.load(c.student), skip="^teacher/")
    objective = jdl.objectives.classify(model)
    if c.teacher:
        teacher = jdl.pretrained(resnet(2 * c.width), jdl.weights.load(c.teacher))
        objective = jdl.distil(objective, teacher, temperature=4.0)
    if c.student:
        objective = jdl.fake_quantize(objective, "^params/Block.*kernel", bits=4)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps), 5e-2))
    batches = train.shuffled(128, c.seed, random_flip(), random_crop(1))
    return jdl.Run(c, learner, batches, test=test.batches(500))


if __name__ == "__main__":
    jdl.main(run, Config)
