"""A graph of garments: each image of Fashion-MNIST with those most like it."""

from __future__ import annotations

import numpy as np

from jdl.data.dataset import Dataset
from jdl.data.graphs import Graph, knn_graph
from jdl.data.tfds_records import tfds


def garment_graph(k: int = 10) -> tuple[Graph, Dataset, Dataset]:
    """The k-nearest-neighbor graph of all 70,000 images of Fashion-MNIST, and its (train, test).

    A node's x (196,) are the pixels of its image from 0 to 1, averaged two by two. Each image is
    linked with its k nearest, in both directions: 1,110,642 edges for k = 10. The datasets are rows
    of `node_rows`: those of the training images, which come first, and those of the test images.
    The graph is made once and kept in the cache. Fashion-MNIST (Xiao et al., 2017)
    must be prepared: `jdl data prepare fashion_mnist`.
    """
    train, test = tfds("fashion_mnist")
    x, y = (np.concatenate([part.columns[name] for part in (train, test)]) for name in "xy")
    half = x.shape[1] // 2
    x = x.reshape(-1, half, 2, half, 2).mean((2, 4)) / 255
    graph = knn_graph(x, y, k, train.labels)
    rows = graph.node_rows()
    return graph, rows.select(slice(len(train))), rows.select(slice(len(train), None))
