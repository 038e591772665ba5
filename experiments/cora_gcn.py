"""Cora, 20 labels a class, by a GCN: test accuracy 0.810 over 10 splits (7 s each).

jdl data fetch cora
scripts/train experiments/cora_gcn.py
"""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.gnn import GNN


@dataclass(frozen=True)
class Config(jdl.Config):
    """`seed` also chooses the labelled, validation and test nodes."""

    steps: int = 200
    lr: float = 1e-2
    hidden: tuple[int, ...] = (64,)
    dropout: float = 0.8
    weight_decay: float = 3e-4


def run(c: Config) -> jdl.Run:
    graph = jdl.data.cora()
    train, valid, test = (p.batches(1) for p in graph.split_nodes(20, 500, 1000, c.seed))
    objective = jdl.objectives.classify(GNN(7, c.hidden, dropout=c.dropout))
    rate = optax.linear_schedule(c.lr, 0.0, c.steps)
    optimizer = optax.chain(optax.add_decayed_weights(c.weight_decay), optax.adam(rate))
    learner = jdl.descent(objective, optimizer)
    return jdl.Run(c, learner, train, valid, test, best="max accuracy", labels=graph.labels)


if __name__ == "__main__":
    jdl.main(run, Config)
