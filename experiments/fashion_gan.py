"""Fashion-MNIST by a small DCGAN, with an average of its generator: not measured yet.

scripts/train experiments/fashion_gan.py
jdl sample fashion_gan -n 64 --out clothes.png
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.dcgan import Critic, Generator


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 9_000
    batch: int = 64
    lr: float = 4e-4
    latent: int = 64


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.tfds("fashion_mnist", "train", "test")
    _, seen = test.split(0.9, 0.1)  # of a game's losses, a few images tell enough
    objective = jdl.objectives.adversarial(Generator((28, 28, 1)), Critic(), c.latent, jdl.objectives.hinge_game)
    optimizer = jdl.optim.players(
        critic=optax.adam(c.lr, b1=0.5, b2=0.99), generator=optax.adam(c.lr / 2, b1=0.5, b2=0.99)
    )
    learner = jdl.ema(jdl.descent(objective, optimizer), 0.999)
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed), test=seen.batches(c.batch))


if __name__ == "__main__":
    jdl.main(run, Config)
