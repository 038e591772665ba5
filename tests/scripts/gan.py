"""A GAN whose generator is updated in every second step, with an EMA of both networks."""

from dataclasses import dataclass

import optax
from kitchen_sink import log_ids

import jdl
from jdl.models.dcgan import Discriminator, Generator


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 60
    batch: int = 12


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digits()
    train, _ = train.split(0.071, 0.1, seed=c.seed)  # 102 rows: the last of 9 batches of 12 has 6
    objective = jdl.objectives.adversarial(
        Generator((8, 8, 1), (8, 4)), Discriminator((4, 8)), 5, jdl.objectives.hinge_gan
    )
    optimizer = jdl.optim.per_module(
        generator=jdl.optim.update_every(2, optax.adam(1e-3)), discriminator=optax.adam(1e-3)
    )
    learner = jdl.ema(jdl.descent(log_ids(objective), optimizer), 0.9)
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed), test=test.batches(90))


if __name__ == "__main__":
    jdl.main(run, Config)
