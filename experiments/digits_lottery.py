"""TODO 1

scripts/train experiments/digits_lottery.py --name dense
scripts/train experiments/digits_lottery.py --name once --ticket run:dense --sparsity 0.5
"""

from dataclasses import dataclass

import jax
import optax

import jdl
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 500
    batch: int = 128
    ticket: str = ""  # a run of this script: what is left of it is rewound to its start
    sparsity: float = 0.0
    random: bool = False  # other weights are left, as many in each array


def run(c: Config) -> jdl.Run:
    train, test = jdl.data.digits()
    model = MLP(10, hidden=(256, 128))
    objective = fresh = jdl.objectives.classify(model)
    if c.ticket:
        trained = jdl.objectives.classify(jdl.pretrained(model, jdl.weights.load(c.ticket)))

        def init(key, batch):  # of the same key, and so the same weights as at the ticket's start
            left = jdl.learners.prune_variables(trained.init(key, batch), c.sparsity)
            if c.random:
                left = jax.tree.map(lambda x: jax.random.permutation(key, x.ravel()), left)
            start = fresh.init(key, batch)
            return jax.tree.map(lambda x, w: x * (w.reshape(x.shape) != 0), start, left)

        objective = jdl.objectives.override(fresh, init=init)
    learner = jdl.prune(jdl.descent(objective, optax.adam(3e-3)), c.sparsity)
    return jdl.Run(c, learner, train.shuffled(c.batch, c.seed), test=test.batches(c.batch))


if __name__ == "__main__":
    jdl.main(run, Config)
