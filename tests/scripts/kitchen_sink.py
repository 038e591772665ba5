"""All that could break a repetition: BatchNorm, dropout, augmentation, ragged batches, EMA."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import optax

import jdl
from jdl.models.cnn import CNN
from jdl.objectives.override import override
from jdl.types import Mean


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 60
    batch: int = 24
    lr: float = 1e-2
    micro_batches: int = 1
    streamed: bool = False
    explode_at: int = 0
    poisoned: int = -1  # the example that is not finite


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digits()
    train, valid = train.split(
        0.143, 0.1, seed=c.seed
    )  # 206 rows: the last of 9 batches of 24 has 14
    train = train.streaming() if c.streamed else train
    model = CNN(10, blocks=((4, 1), (6, 1)), dense=(16,), batch_norm=True, dropout=0.2)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule(c)))
    learner = jdl.ema(
        jdl.descent(log_ids(jdl.objectives.classify(model)), optimizer, c.micro_batches), 0.9
    )

    def poison(key, example):
        return {**example, "x": jnp.where(example["id"] == c.poisoned, jnp.nan, example["x"])}

    batches = train.shuffled(
        c.batch, c.seed, jdl.data.random_crop(1), jdl.data.random_erase(2), poison
    )
    return jdl.Run(c, learner, batches, valid.batches(50), test.batches(50), best="max accuracy")


def log_ids(objective):
    """The same objective, which logs a hash of the ids of each batch, exact in float32."""

    def loss(variables, batch, key, train):
        output = objective.loss(variables, batch, key, train)
        hashes = jnp.where(batch["mask"], (batch["id"] * batch["id"] + 7) % 4093, 0)
        ids = Mean(hashes.sum().astype(jnp.float32), jnp.ones(()))
        return replace(output, metrics={**output.metrics, "ids": ids})

    return override(objective, loss=loss)


def schedule(c: Config):
    warm = optax.warmup_cosine_decay_schedule(0.0, c.lr, 5, 60)
    return (
        optax.join_schedules([warm, optax.constant_schedule(1e38)], [c.explode_at])
        if c.explode_at
        else warm
    )


if __name__ == "__main__":
    jdl.main(run, Config)
