"""Fashion-MNIST with a small ResNet: test accuracy 94.03% (seed 0).

On an NVIDIA H100; on a CPU 94.05%, in 47 CPU-minutes.

jdl data prepare fashion_mnist --from DIR
scripts/train experiments/fashion_resnet.py
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.data import random_crop, random_flip
from jdl.models.resnet import ResNet


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 12 * 469
    batch: int = 128
    lr: float = 3e-3


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.tfds("fashion_mnist")
    model = ResNet(10, stages=((32, 0), (48, 1), (96, 1), (192, 1)))
    schedule = optax.warmup_cosine_decay_schedule(0.0, c.lr, c.steps // 10, c.steps)
    learner = jdl.descent(
        jdl.objectives.classify(model, smoothing=0.1),
        optax.adamw(schedule, weight_decay=5e-2),
    )
    batches = train.shuffled(c.batch, c.seed, random_flip(), random_crop(1))
    return jdl.Run(
        c, learner, batches, test=test.batches(500), best="max accuracy", labels=train.labels
    )


if __name__ == "__main__":
    jdl.main(run, Config)
