"""Which digits occur in a scene of 1 to 4, several labels a row: not measured yet.

scripts/train experiments/digits_scenes.py --seed 0
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.cnn import CNN


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 2_000
    batch: int = 64
    scenes: int = 20_000
    lr: float = 3e-3


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digit_scenes(c.scenes)
    train, valid = train.split(0.95, 0.05)
    model = CNN(10, ((16, 1), (32, 1), (64, 1)), dense=(128,), batch_norm=True, dropout=0.2)
    optimizer = optax.adamw(jdl.optim.warmup_cosine(c.lr, c.steps))
    learner = jdl.descent(jdl.objectives.multi_label(model), optimizer)
    batches = [data.batches(c.batch) for data in (valid, test)]
    return jdl.Run(
        c, learner, train.shuffled(c.batch, c.seed), *batches, "max f1/macro", train.labels
    )


if __name__ == "__main__":
    jdl.main(run, Config)
