"""Fashion-MNIST in 54.5 kB, exported in 4 bits: 91.8%; its teacher, of 1,221 kB, has 92.1%.

scripts/train experiments/fashion_small.py --name teacher --channels 16 --batch 128 --steps 2500
scripts/train experiments/fashion_small.py --name student --teacher run:teacher  # 91.9%, 309 kB
scripts/train experiments/fashion_small.py --start run:student --steps 1500 --lr 3e-4"""

from dataclasses import dataclass

import jdl
from jdl.models.resnet import ResNet


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 6_000
    batch: int = 64
    lr: float = 3e-3
    channels: int = 8
    teacher: str = ""  # a run of this script with twice the channels
    start: str = ""  # a run that goes on, in 4 bits


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.tfds("fashion_mnist")
    sizes = c.channels, 2 * c.channels
    model, wide = (ResNet(10, ((n, 0), (2 * n, 1), (4 * n, 1), (8 * n, 1))) for n in sizes)
    model = jdl.pretrained(model, jdl.weights.load(c.start), skip="^teacher/") if c.start else model
    objective = jdl.objectives.classify(model)
    augment = jdl.data.random_flip(), jdl.data.random_crop(1)
    if c.teacher:
        teacher = jdl.pretrained(wide, jdl.weights.load(c.teacher))
        objective = jdl.distil(objective, teacher, temperature=1.0)
    if c.start:
        objective = jdl.fake_quantize(objective, "Block.*kernel", bits=4)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps), 5e-2))
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed, *augment), test=test.batches(500))


if __name__ == "__main__":
    jdl.main(run, Config)
