"""Fashion-MNIST with 600 labels: not measured yet.

jdl data prepare fashion_mnist --from DIR
scripts/train experiments/fashion_few_labels.py
"""

from dataclasses import dataclass
from typing import Literal

import jdl
from jdl.models.cnn import CNN
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1_000
    batch: int = 256
    lr: float = 2e-3
    crop: float = 0.3
    jitter: float = 0.4
    temperature: float = 0.2
    blocks: int = 3
    method: Literal["simclr", "byol", "supervised"] = "simclr"
    on: Literal["test", "valid"] = "test"


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.tfds("fashion_mnist")
    train, valid, labelled = train.split(0.89, 0.1, 0.01, stratify="y")
    test = (test if c.on == "test" else valid).batches(500)
    blocks = ((16, 1), (32, 1), (64, 1)) if c.blocks == 3 else ((16, 1), (32, 1), (64, 1), (128, 1))
    model = CNN(10 if c.method == "supervised" else None, blocks, dense=(), batch_norm=True)
    view = [
        jdl.data.random_resized_crop(scale=(c.crop, 1.0)),
        jdl.data.random_flip(),
        jdl.data.color_jitter(c.jitter, c.jitter),
    ]
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps))
    if c.method == "supervised":
        objective = jdl.objectives.classify(model)
        data = labelled.shuffled(c.batch, c.seed, *view)
        return jdl.Run(c, jdl.descent(objective, optimizer), data, test=test)
    objective = jdl.objectives.simclr(model, MLP(64, (256,)), view, c.temperature)
    learner = jdl.descent(objective, optimizer)
    if c.method == "byol":
        objective = jdl.objectives.byol(model, MLP(64, (256,)), MLP(64, (256,)), view)
        learner = jdl.target_network(jdl.descent(objective, optimizer))
    data = train.shuffled(c.batch, c.seed)
    score = jdl.objectives.probe_scores(objective, labelled.batches(500), test)
    return jdl.Run(c, learner, data, test=test, score=score)


if __name__ == "__main__":
    jdl.main(run, Config)
