"""Fashion-MNIST with 600 labels by a masked autoencoder: not measured yet.

jdl data prepare fashion_mnist --from DIR
scripts/train experiments/fashion_mae.py
"""

from dataclasses import dataclass

import jdl
from jdl.models.mae import MaskedAutoencoder
from jdl.models.transformer import TransformerConfig
from jdl.models.vit import ViT


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1_500
    batch: int = 128
    supervised: bool = False  # the encoder alone, by the labelled rows


def run(c: Config) -> jdl.Run:
    data, test = jdl.data.tfds("fashion_mnist")
    train, valid, labelled = data.split(0.89, 0.1, 0.01, stratify="y")
    splits = valid.batches(500), test.batches(500)
    sizes = TransformerConfig(width=64, depth=3, rotary=False)
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(2e-3, c.steps))
    if c.supervised:
        objective = jdl.objectives.classify(ViT(10, 4, sizes))
        batches = labelled.shuffled(
            c.batch, c.seed, jdl.data.random_flip(), jdl.data.random_crop(2)
        )
        return jdl.Run(c, jdl.descent(objective, optimizer), batches, *splits)
    model = MaskedAutoencoder(4, sizes, TransformerConfig(width=32, depth=1, rotary=False))
    objective = jdl.objectives.masked_patches(model, 4)
    learner = jdl.descent(objective, optimizer)
    score = jdl.objectives.probe_scores(objective, labelled.batches(600), splits[1])
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed), *splits, score=score)


if __name__ == "__main__":
    jdl.main(run, Config)
