"""Fashion-MNIST with 600 labels: not measured yet.

jdl data prepare fashion_mnist --from DIR
"""

from dataclasses import dataclass
from typing import Literal

import jdl
from jdl.models.cnn import CNN
from jdl.models.mlp import MLP

BLOCKS = (16, 1), (32, 1), (64, 1)


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1_000
    method: Literal["simclr", "byol", "supervised"] = "simclr"


def run(c: Config) -> jdl.Run:
    train, valid, labelled = jdl.data.tfds("fashion_mnist")[0].split(0.89, 0.1, 0.01, stratify="y")
    splits = valid.batches(500), jdl.data.tfds("fashion_mnist")[1].batches(500)
    jitter = jdl.data.color_jitter(0.4, 0.4)
    view = jdl.data.random_resized_crop(scale=(0.3, 1)), jdl.data.random_flip(), jitter
    adamw = jdl.optim.adamw(jdl.optim.warmup_cosine(2e-3, c.steps))
    if c.method == "supervised":
        learner = jdl.descent(jdl.objectives.classify(CNN(10, BLOCKS, 3, (), True)), adamw)
        return jdl.Run(c, learner, labelled.shuffled(128, c.seed, *view), *splits)
    encoder, head = CNN(None, BLOCKS, batch_norm=True), MLP(64, (256,))
    learner = jdl.descent(jdl.objectives.simclr(encoder, head, view, 0.2), adamw)
    if c.method == "byol":
        objective = jdl.objectives.byol(encoder, head, head, view)
        learner = jdl.target_network(jdl.descent(objective, adamw))
    score = jdl.objectives.probe_scores(learner.objective, labelled.batches(600), splits[1])
    return jdl.Run(c, learner, train.shuffled(128, c.seed), *splits, score=score)


if __name__ == "__main__":
    jdl.main(run, Config)
