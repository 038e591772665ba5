"""Fashion-MNIST, 600 labels: SimCLR's accuracy by linear probe 0.814, k-NN 0.766; supervised 0.801.

jdl data prepare fashion_mnist --from DIR
scripts/train experiments/fashion_few_labels.py  # seed 0, 5 CPU-min, an AMD EPYC
scripts/train experiments/fashion_few_labels.py --supervised --steps 500  # 2 CPU-min
"""

from dataclasses import dataclass

import jdl
from jdl.models.cnn import CNN
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1_000
    batch: int = 128
    share: float = 0.01  # of the rows, whose labels are used
    supervised: bool = False


def run(c: Config) -> jdl.Run:
    data, test = jdl.data.tfds("fashion_mnist")
    train, valid, labelled = data.split(0.9 - c.share, 0.1, c.share, stratify="y")
    splits, blocks = (valid.batches(500), test.batches(500)), ((16, 1), (32, 1), (64, 1))
    crop, jitter = jdl.data.random_resized_crop(scale=(0.3, 1)), jdl.data.color_jitter(0.4, 0.4)
    view, encoder = (crop, jdl.data.random_flip(), jitter), CNN(None, blocks, batch_norm=True)
    objective = jdl.objectives.simclr(encoder, MLP(64, (256,)), view, temperature=0.2)
    score = jdl.objectives.probe_scores(objective, labelled.batches(c.batch), splits[1])
    batches = train.shuffled(c.batch, c.seed)
    if c.supervised:
        objective = jdl.objectives.classify(CNN(10, blocks, dense=(), batch_norm=True))
        batches, score = labelled.shuffled(c.batch, c.seed, *view), None
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(2e-3, c.steps)))
    return jdl.Run(c, learner, batches, *splits, score=score)


if __name__ == "__main__":
    jdl.main(run, Config)
