"""Which digits occur in a scene of 1 to 4: F1 0.916 micro, 0.910 macro, 70.9% exact matches.

Of 2,000 scenes of test digits; seed 0, in 170 s of processor time, on 2 cores of an AMD EPYC.
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
    batches = train.shuffled(c.batch, c.seed), valid.batches(c.batch), test.batches(c.batch)
    return jdl.Run(c, learner, *batches, best="max f1/macro", labels=train.labels)


if __name__ == "__main__":
    jdl.main(run, Config)
