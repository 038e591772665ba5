"""Digits in 8 latents by a denoising autoencoder: mean squared error 0.0120 (49 s).

scripts/train experiments/digits_autoencoder.py
jdl sample digits_autoencoder --reconstruct --out reconstructions.png
"""

from dataclasses import dataclass

import jdl
from jdl.models.autoencoder import Autoencoder


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 3_000
    batch: int = 128
    lr: float = 3e-3
    latent: int = 8
    noise: float = 0.2  # of pixels from 0 to 1


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digits()
    model = Autoencoder((8, 8, 1), c.latent, channels=(16, 32), hidden=(128,))
    objective = jdl.objectives.autoencode(model, c.noise)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    return jdl.Run(
        c, learner, train.shuffled(c.batch, c.seed), test=test.batches(c.batch), best="min mse"
    )


if __name__ == "__main__":
    jdl.main(run, Config)
