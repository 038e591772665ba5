"""Fashion-MNIST with an MLP of two hidden layers: test accuracy 89.9, 89.7% (seeds 0, 1), in 49 s.

jdl data prepare fashion_mnist
scripts/train experiments/fashion_mlp.py
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 20 * 469
    batch: int = 128
    lr: float = 1e-3
    dropout: float = 0.3


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.tfds("fashion_mnist")
    model = MLP(10, hidden=(512, 256), dropout=c.dropout)
    optimizer = optax.adamw(optax.cosine_decay_schedule(c.lr, c.steps))
    learner = jdl.descent(jdl.objectives.classify(model), optimizer)
    batches = train.shuffled(c.batch, c.seed)
    return jdl.Run(
        c, learner, batches, test=test.batches(500), best="max accuracy", labels=train.labels
    )


if __name__ == "__main__":
    jdl.main(run, Config)
