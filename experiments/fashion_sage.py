"""Fashion-MNIST's graph of neighbours, 600 labels.

scripts/train experiments/fashion_sage.py
"""

from dataclasses import dataclass

import numpy as np

import jdl
from jdl.models.gnn import GNN, SAGE


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 400
    batch: int = 64
    neighbours: int = 10  # of an image, in the graph
    fanouts: tuple[int, ...] = (10, 10)  # neighbours drawn at each hop; (): the whole graph
    labelled: float = 0.01  # of the training images
    lr: float = 1e-2
    hidden: tuple[int, ...] = (64,)
    dropout: float = 0.5
    weight_decay: float = 0.1


def run(c: Config) -> jdl.Run:
    splits = jdl.data.tfds("fashion_mnist")
    x, y = (np.concatenate([split.columns[name] for split in splits]) for name in "xy")
    x = x.reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255  # pixels of twice the side
    graph = jdl.data.knn_graph(x, y, c.neighbours, splits[0].labels)
    nodes = graph.node_rows()
    train, valid = nodes.select(slice(60_000)).split(c.labelled, 0.1, stratify="y")
    test = nodes.select(slice(60_000, None))
    if c.fanouts:
        loaders = train.shuffled(c.batch, c.seed), valid.batches(500), test.batches(500)
        parts = [graph.neighbor_loader(loader, *c.fanouts) for loader in loaders]
    else:
        masks = (part.column("node") for part in (train, valid, test))
        parts = [part.batches(1) for part in graph.split_by_masks(*masks)]
    objective = jdl.objectives.classify(GNN(10, c.hidden, SAGE, dropout=c.dropout))
    rate = jdl.optim.warmup_cosine(c.lr, c.steps)
    learner = jdl.descent(objective, jdl.optim.adamw(rate, weight_decay=c.weight_decay))
    return jdl.Run(c, learner, *parts, best="max accuracy", labels=graph.labels)


if __name__ == "__main__":
    jdl.main(run, Config)
