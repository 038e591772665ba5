"""Semi-supervised learning: loaders zipped into one, and FixMatch against its formula.

Seen to fail: unlabelled rows of another part or batch, a threshold that is ignored, strong views
drawn by the weak ones' transforms; and in the table of models, of which `fixmatch` is a row, the
others of a padding row that count.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.models.mlp import MLP
from jdl.objectives import fixmatch

TRAIN, TEST = jdl.data.digits()
LABELLED, REST = TRAIN.select(np.arange(20)), TRAIN.select(np.arange(20, 100))


def add(amount):
    return lambda key, example: {**example, "x": example["x"] + amount}


def zipped(rest=REST):
    return jdl.data.zip_loaders(LABELLED.shuffled(8, 0), unlabelled=rest.shuffled(24, 1))


@pytest.mark.parametrize("rest", [REST, REST.streaming()], ids=["on device", "streamed"])
def test_batch_i_of_zipped_loaders_is_batch_i_of_each(rest):
    data, labelled, others = zipped(rest), LABELLED.shuffled(8, 0), REST.shuffled(24, 1)
    assert (len(data), data.batch_size) == (4, 8)
    for i in (0, 5):  # the epochs of the two begin at other steps
        batch, expected = data[i], others[i]
        assert jax.tree.map(lambda c: (c.shape, c.dtype), batch) == jax.tree.map(
            lambda c: (c.shape, c.dtype), dict(data.spec)
        )
        for name, column in labelled[i].items():
            np.testing.assert_array_equal(batch[name], column)
        for name, column in expected.items():
            found = batch[f"unlabelled_{name}"]
            np.testing.assert_array_equal(found.reshape(24, *column.shape[1:]), column)


def test_a_part_of_streamed_rows_has_their_own_others():
    whole, part = (next(data.read(1))[1]["unlabelled"] for data in halves())
    for name, column in part["columns"].items():
        np.testing.assert_array_equal(column, whole["columns"][name][4:])


def halves():
    data = zipped(REST.streaming())
    return data, data.shard(slice(4, 8))


def test_the_loss_is_that_of_the_paper():
    data = zipped()
    batch = data[11]  # the last of an epoch of both, with padding
    assert (batch["mask"].sum(), batch["unlabelled_mask"].sum()) == (4, 8)
    objective = fixmatch(MLP(10, (6,)), add(0.5), add(-2.0), threshold=0.15, weight=3.0)
    variables = objective.init(jax.random.key(0), batch)

    def logits(params, x, amount):
        return objective.model.apply({"params": params}, x + amount)

    def expected(params):
        mask, x = batch["mask"], batch["unlabelled_x"].reshape(24, 8, 8, 1)
        weak, strong = logits(params, x, 0.5), logits(params, x, -2.0)
        probability = jax.nn.softmax(jax.lax.stop_gradient(weak))
        real = batch["unlabelled_mask"].reshape(24)
        sure = real & (probability.max(-1) >= 0.15)
        label = jax.nn.one_hot(probability.argmax(-1), 10)
        pseudo = jnp.where(sure, optax.softmax_cross_entropy(strong, label), 0.0)
        pseudo = pseudo.reshape(8, 3).mean(1)
        supervised = optax.softmax_cross_entropy(
            logits(params, batch["x"], 0.5), jax.nn.one_hot(batch["y"], 10)
        )
        losses = jnp.where(mask, supervised + 3 * pseudo, 0.0)
        return losses.sum() / 4, (sure.reshape(8, 3) & mask[:, None]).sum()

    def found(params):
        output = objective.loss({"params": params}, batch, jax.random.key(3), True)
        return output.loss.value(), output.metrics["confident"].value()

    params = variables["params"]
    (loss, share), grads = jax.value_and_grad(found, has_aux=True)(params)
    (true_loss, sure), true_grads = jax.value_and_grad(expected, has_aux=True)(params)
    assert 0 < float(share) < 1
    rows = (batch["unlabelled_mask"] & batch["mask"][:, None]).sum()
    np.testing.assert_allclose(share, sure / rows, rtol=1e-6)
    np.testing.assert_allclose(loss, true_loss, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, true_grads
    )


def test_evaluation_is_that_of_classify_and_needs_no_unlabelled_rows():
    batch, objective = TEST.batches(20)[0], fixmatch(MLP(10, (6,)), add(0.5), add(2.0))
    variables = objective.init(jax.random.key(0), batch)
    key = jax.random.key(0)
    expected = jdl.objectives.classify(objective.model).loss(variables, batch, key, False)
    found = objective.loss(variables, batch, key, False)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("threshold must be", lambda: fixmatch(None, add(1), add(2), threshold=95)),
        ("no multiple", lambda: jdl.data.zip_loaders(TEST.batches(8), other=TEST.batches(20))),
        ("loaders that", lambda: jdl.data.zip_loaders(TEST.batches(8), other=TEST)),
        ("needs unlabelled rows", lambda: fit(LABELLED.shuffled(8, 0))),
    ],
)
def test_refuses(message, call):
    with pytest.raises(jdl.Error, match=message):
        call()


def fit(data):
    objective = fixmatch(MLP(10, (6,)), add(0.5), add(2.0))
    return jax.eval_shape(
        lambda key: objective.loss(objective.init(key, data[0]), data[0], key, True),
        jax.random.key(0),
    )


def test_two_micro_batches_are_one_batch():
    objective = fixmatch(MLP(10, (6,)), add(0.5), add(-2.0), threshold=0.15)
    data, states = zipped(), []
    for count in (1, 2):
        learner = jdl.descent(objective, optax.sgd(0.1), micro_batches=count)
        state = learner.init(jax.random.key(0), data[0])
        states.append(jax.jit(learner.step)(state, data[2])[0].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *states)
    assert jnp.isfinite(jax.tree.leaves(states[0])[0]).all()
