"""Deep clustering with a contrastive loss that starts half-way: its centers are state."""

from dataclasses import dataclass

import optax
from kitchen_sink import log_ids

import jdl
from jdl.models.autoencoder import Autoencoder


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 60
    batch: int = 12


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digits()
    train, _ = train.split(0.071, 0.1, seed=c.seed)  # 102 rows: the last of 9 batches of 12 has 6
    model = Autoencoder((8, 8, 1), 2, hidden=(16,))
    objective = jdl.objectives.deep_clustering(
        model, 5, 0.1, noise=0.2, augment=jdl.data.random_crop(1), contrastive_weight=0.1
    )
    learner = jdl.descent(log_ids(objective), optax.adam(1e-3))
    learner = jdl.ema(jdl.k_means_init(learner, c.steps // 2, train.batches(102)[0]), 0.9)
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed), test=test.batches(90))


if __name__ == "__main__":
    jdl.main(run, Config)
