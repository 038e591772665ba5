"""Digits with a small CNN: test accuracy 97.8 to 98.9% in 26 s.

Seeds 0 to 2, on 2 cores of an AMD EPYC.

scripts/train experiments/digits_cnn.py --seed 3 --lr 3e-3
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.cnn import CNN


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1_000
    batch: int = 128
    lr: float = 3e-3


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digits()
    blocks = ((32, 2), (64, 2))  # channels, convolutions
    model = CNN(10, blocks, dense=(), batch_norm=True, dropout=0.2)
    optimizer = optax.adamw(jdl.optim.warmup_cosine(c.lr, c.steps))
    learner = jdl.descent(jdl.objectives.classify(model), optimizer)
    batches = train.shuffled(c.batch, c.seed, jdl.data.random_crop(1))
    return jdl.Run(
        c, learner, batches, test=test.batches(c.batch), best="max accuracy", labels=train.labels
    )


if __name__ == "__main__":
    jdl.main(run, Config)
