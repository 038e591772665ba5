"""Fashion-MNIST with a CNN of three convolutions: test accuracy 93.8% (seed 0), in 29 CPU-min.

jdl data prepare fashion_mnist --from DIR
scripts/train experiments/fashion_cnn.py
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.cnn import CNN


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 13 * 469
    batch: int = 128
    lr: float = 3e-3


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.tfds("fashion_mnist")
    model = CNN(10, blocks=((32, 1), (64, 2)), dense=(512,), batch_norm=True, dense_dropout=0.5)
    schedule = optax.warmup_cosine_decay_schedule(0.0, c.lr, c.steps // 20, c.steps)
    learner = jdl.descent(
        jdl.objectives.classify(model, smoothing=0.05),
        optax.adamw(schedule, weight_decay=1e-2),
    )
    batches = train.shuffled(c.batch, c.seed, jdl.data.random_flip(), jdl.data.random_crop(1))
    return jdl.Run(
        c, learner, batches, test=test.batches(500), best="max accuracy", labels=train.labels
    )


if __name__ == "__main__":
    jdl.main(run, Config)
