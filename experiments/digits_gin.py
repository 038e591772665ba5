"""Digits as graphs of their pixels, by a GIN: test accuracy 0.967, 0.944, 0.950 (seeds 0, 1, 2).

A node is a pixel with ink; edges go to the pixels around it.
scripts/train experiments/digits_gin.py  # about a minute
"""

from dataclasses import dataclass

import numpy as np

import jdl
from jdl.layers import LayerNorm
from jdl.models.gnn import GIN, GNN


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1_500
    batch: int = 64


def pixel_graph(image: np.ndarray, y: int) -> dict[str, object]:
    pixels = np.argwhere(image[..., 0])
    offsets = pixels[None] - pixels[:, None]
    edges = np.argwhere(abs(offsets).max(2) == 1)
    x = np.concatenate([image[tuple(pixels.T)], pixels / 7], 1)
    return {"x": x, "edges": edges, "edge_features": offsets[tuple(edges.T)].astype(float), "y": y}


def run(c: Config) -> jdl.Run:
    parts = [map(pixel_graph, p.columns["x"], p.columns["y"]) for p in jdl.data.digits()]
    train, test = (jdl.data.graphs(part, directed=True) for part in parts)
    model = GNN(10, (64, 64, 64), layer=GIN, global_mean_pool=True, norm=LayerNorm)
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(3e-3, c.steps), weight_decay=0.01)
    learner = jdl.descent(jdl.objectives.classify(model), optimizer)
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed), test=test.batches(c.batch))


if __name__ == "__main__":
    jdl.main(run, Config)
