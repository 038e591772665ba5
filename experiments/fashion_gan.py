"""Fashion-MNIST by a DCGAN with spectral normalization: Frechet distance 11.5 (on an H100).

scripts/train experiments/fashion_gan.py  # on a CPU 39 min beside other work
jdl sample fashion_gan -n 64 --out clothes.png
jdl frechet fashion_gan --by fashion_cnn
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.dcgan import Generator, SpectralNormDiscriminator


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 8_000
    batch: int = 64
    lr: float = 5e-4
    latent: int = 64


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.tfds("fashion_mnist", "train", "test")
    _, few = test.split(0.9, 0.1)  # GAN losses need no more images
    generator = Generator((28, 28, 1), full_size_channels=32)
    objective = jdl.objectives.adversarial(
        generator, SpectralNormDiscriminator(), c.latent, jdl.objectives.hinge_gan
    )
    adam = optax.adam(c.lr, b1=0.5)
    learner = jdl.ema(
        jdl.descent(objective, jdl.optim.per_module(generator=adam, discriminator=adam)), 0.999
    )
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed), test=few.batches(c.batch))


if __name__ == "__main__":
    jdl.main(run, Config)
