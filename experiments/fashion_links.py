"""Links of Fashion-MNIST's graph of neighbours.

scripts/train experiments/fashion_links.py
"""

from dataclasses import dataclass

import numpy as np

import jdl
from jdl.models.gnn import GNN, SAGE


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 500
    batch: int = 64
    neighbours: int = 10  # of an image, in the graph
    fanouts: tuple[int, ...] = (5, 5)  # neighbours drawn at each hop
    lr: float = 3e-3
    hidden: tuple[int, ...] = (64,)
    codes: int = 32


def run(c: Config) -> jdl.Run:
    splits = jdl.data.tfds("fashion_mnist")
    x, y = (np.concatenate([split.columns[name] for split in splits]) for name in "xy")
    x = x.reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255  # pixels of twice the side
    graph = jdl.data.knn_graph(x, y, c.neighbours, splits[0].labels)
    known, (train, valid, test) = graph.split_link_rows(0.01, 0.01, c.seed)
    loaders = train.shuffled(c.batch, c.seed), valid.batches(500), test.batches(500)
    parts = [known.link_neighbor_loader(loader, *c.fanouts) for loader in loaders]
    objective = jdl.objectives.link_prediction(GNN(c.codes, c.hidden, SAGE))
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    return jdl.Run(c, learner, *parts, best="max auc")


if __name__ == "__main__":
    jdl.main(run, Config)
