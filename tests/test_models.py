"""Every property of every model, over one table."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.models.cnn import CNN
from jdl.models.mlp import MLP


@dataclass(frozen=True)
class Row:
    name: str
    model: Any
    shape: tuple[int, ...]
    parameters: int  # computed by hand
    rate: float = 1e-2

    def batch(self, rows=12):
        x = jax.random.normal(jax.random.key(1), (rows, *self.shape))
        return {"x": x, "y": jnp.arange(rows, dtype=jnp.int32) % 5, "mask": jnp.ones(rows, bool)}


TABLE = [
    Row("perceptron", MLP(5), (4, 4, 1), 16 * 5 + 5, 1e-1),
    Row("mlp", MLP(5, hidden=(32, 16)), (4, 4, 1), (16 * 32 + 32) + (32 * 16 + 16) + (16 * 5 + 5)),
    Row("cnn", CNN(5, blocks=((4, 1), (8, 1)), dense=(16,)), (9, 8, 2), 76 + 296 + (32 * 16 + 16) + 85),
    Row(
        "cnn-norm",
        CNN(5, blocks=((4, 2), (8, 1)), dense=(), batch_norm=True),
        (8, 8, 1),
        (36 + 8) + (144 + 8) + (288 + 16) + (32 * 5 + 5),
    ),
    Row(
        "lenet",
        CNN(10, blocks=((6, 1), (16, 1)), kernel=5, dense=(120, 84), activation=nn.tanh),
        (28, 28, 1),
        # SAME padding: 7 x 7 x 16 values reach the dense layers, where LeNet-5 itself has 5 x 5 x 16
        156 + 2_416 + (784 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10),
        3e-3,
    ),
]


@pytest.fixture(params=TABLE, ids=[row.name for row in TABLE])
def row(request):
    return request.param


def learner_of(row):
    return jdl.descent(jdl.objectives.classify(row.model), optax.adam(row.rate))


def test_shapes_types_and_parameters(row):
    batch = row.batch()
    variables = jax.jit(row.model.init)(jax.random.key(0), batch["x"])
    out = row.model.apply(variables, batch["x"])
    assert out.shape == (12, row.model.outputs)
    assert out.dtype == jnp.float32
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == row.parameters


def test_learns_a_small_set_by_heart(row):
    learner, batch = learner_of(row), row.batch()
    state = jax.jit(learner.init)(jax.random.key(0), batch)
    step = jax.jit(learner.step)
    losses = []
    for _ in range(150):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"].value()))
    assert losses[1] < losses[0]
    assert float(metrics["accuracy"].value()) == 1


def test_trains_many_seeds_at_once(row):
    learner, batch = learner_of(row), row.batch()
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    states = jax.jit(jax.vmap(learner.init, (0, None)))(keys, batch)
    states, metrics = jax.jit(jax.vmap(learner.step, (0, None)))(states, batch)
    alone, _ = jax.jit(learner.step)(jax.jit(learner.init)(keys[1], batch), batch)
    kernels = [jax.tree.leaves(tree)[-1] for tree in (states.params, alone.params)]
    np.testing.assert_allclose(kernels[0][1], kernels[1], atol=1e-5)
    assert metrics["loss"].value().shape == (2,)


def test_padding_changes_nothing(row):
    """Rows that are masked leave loss, gradients and carried statistics as they are without those rows."""
    objective, batch = jdl.objectives.classify(row.model), row.batch()
    padded = {name: jnp.concatenate([column, column[:4]]) for name, column in batch.items()}
    padded["mask"] = padded["mask"].at[12:].set(False)
    variables = jax.jit(objective.init)(jax.random.key(0), batch)

    def loss(params, batch):
        out = objective.loss({**variables, "params": params}, batch, jax.random.key(2), True)
        return out.loss.value(), out.carry

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    results = [both(variables["params"], b) for b in (batch, padded)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-4), *results)


def test_evaluation_is_row_by_row(row):
    """In evaluation no row depends on another."""
    batch = row.batch()
    variables = jax.jit(row.model.init)(jax.random.key(0), batch["x"])
    whole, changed = (row.model.apply(variables, x) for x in (batch["x"], batch["x"].at[0].set(7.0)))
    np.testing.assert_array_equal(whole[1:], changed[1:])


def test_dropout_depends_on_the_key_and_only_in_training():
    for model, shape in ((MLP(3, hidden=(64,), dropout=0.5), (8,)), (CNN(3, dropout=0.5), (8, 8, 1))):
        x = jnp.ones((2, *shape))
        variables = jax.jit(model.init)(jax.random.key(0), x)

        @jax.jit
        def run(seed, model=model, variables=variables, x=x):
            return model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)})

        assert (run(1) == run(1)).all()
        assert (run(1) != run(2)).any()
        assert (model.apply(variables, x) == model.apply(variables, x)).all()
