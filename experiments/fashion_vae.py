"""Fashion-MNIST by a convolutional VAE: test ELBO -236.7 nats an image, IWAE -234.4 (10 min).

scripts/train experiments/fashion_vae.py
jdl sample fashion_vae -n 64 --out clothes.png
"""

from dataclasses import dataclass

import jdl
from jdl.models.autoencoder import VAE


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 9_000
    batch: int = 128
    lr: float = 2e-3
    latent: int = 32
    importance: int = 64  # samples of the IWAE bound


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.tfds("fashion_mnist", "train", "test")
    train, valid = train.split(0.99, 0.01)
    objective = jdl.objectives.elbo(
        VAE((28, 28, 1), c.latent, (32, 64), (256,)), importance_samples=c.importance
    )
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    batches = train.shuffled(c.batch, c.seed)
    return jdl.Run(
        c, learner, batches, valid.batches(c.batch), test.batches(c.batch), best="max elbo"
    )


if __name__ == "__main__":
    jdl.main(run, Config)
