"""All that could break a repetition in one experiment: BatchNorm, dropout, augmentation, ragged batches, EMA."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import optax

import jdl
from jdl.models.cnn import CNN
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
        jdl.descent(seen(jdl.objectives.classify(model)), optimizer, c.micro_batches), 0.9
    )

    def poison(key, example):
        return {**example, "x": jnp.where(example["id"] == c.poisoned, jnp.nan, example["x"])}

    batches = train.shuffled(
        c.batch, c.seed, jdl.data.random_crop(1), jdl.data.random_erase(2), poison
    )
    return jdl.Run(c, learner, batches, valid.batches(50), test.batches(50), best="max accuracy")


def seen(objective):
    """The same objective, which logs the examples of each batch: a number that hangs on their ids, exact in float32."""

    def loss(variables, batch, key, train):
        out = objective.loss(variables, batch, key, train)
        ids = (
            jnp.where(batch["mask"], (batch["id"] * batch["id"] + 7) % 4093, 0)
            .sum()
            .astype(jnp.float32)
        )
        return replace(out, metrics={**out.metrics, "seen": Mean(ids, jnp.ones(()))})

    return replace(objective, loss=loss)


def schedule(c: Config):
    warm = optax.warmup_cosine_decay_schedule(0.0, c.lr, 5, 60)
    return (
        optax.join_schedules([warm, optax.constant_schedule(1e38)], [c.explode_at])
        if c.explode_at
        else warm
    )


if __name__ == "__main__":
    jdl.main(run, Config)
