"""Objectives against formulas written out, their masks, their errors; `predict_all`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import log_loss

import jdl
from jdl.models.autoencoder import VAE
from jdl.models.mlp import MLP
from jdl.models.realnvp import RealNVP
from jdl.objectives import (
    absolute_error,
    absolute_percentage_error,
    autoencode,
    classify,
    classify_binary,
    elbo,
    hinge,
    next_token,
    normalizing_flow,
    override,
    perceptron,
    poisson_loss,
    predict_all,
    quantile_loss,
    regress,
    squared_log_error,
    text_scores,
)
from jdl.types import DecodesTokens, Encodes, Generates, Predicts, SamplesLatents

ROWS, CLASSES = 9, 4
X = jax.random.normal(jax.random.key(0), (ROWS, 6))
Y = jnp.arange(ROWS, dtype=jnp.int32) % CLASSES
MASK = jnp.arange(ROWS) % 3 != 0
BATCH = {"x": X, "y": Y, "mask": MASK}
BINARY = {**BATCH, "y": Y % 2}
NUMBERS = {**BATCH, "y": X[:, 0] * 2}

TABLE = {
    "classify": (classify(MLP(CLASSES)), BATCH),
    "smoothed": (classify(MLP(CLASSES), smoothing=0.2, top=2), BATCH),
    "hinge": (hinge(MLP(CLASSES)), BATCH),
    "perceptron": (perceptron(MLP(CLASSES)), BATCH),
    "binary": (classify_binary(MLP(1)), BINARY),
    "mse": (regress(MLP(1)), NUMBERS),
    "mae": (regress(MLP(1), absolute_error), NUMBERS),
    "huber": (regress(MLP(1), optax.huber_loss), NUMBERS),
}


def logits_of(objective):
    variables = objective.init(jax.random.key(3), BATCH)
    dense = variables["params"]["Dense_0"]
    return variables, np.asarray(X @ dense["kernel"] + dense["bias"][None])


def reference(name, out):
    """The loss of every row, by NumPy alone."""
    rows, y = np.arange(ROWS), np.asarray(Y)
    if name in ("classify", "smoothed"):
        probabilities = np.exp(out) / np.exp(out).sum(1, keepdims=True)
        share = 0.2 if name == "smoothed" else 0.0
        target = np.eye(CLASSES)[y] * (1 - share) + share / CLASSES
        return -(target * np.log(probabilities)).sum(1)
    if name in ("hinge", "perceptron"):
        margin = out + (np.eye(CLASSES)[y] == 0) * (name == "hinge")
        return margin.max(1) - out[rows, y]
    if name == "binary":
        p, y = 1 / (1 + np.exp(-out[:, 0])), y % 2
        return -(y * np.log(p) + (1 - y) * np.log(1 - p))
    error = out[:, 0] - np.asarray(NUMBERS["y"])
    small = np.abs(error) <= 1
    return {
        "mse": error**2,
        "mae": np.abs(error),
        "huber": np.where(small, error**2 / 2, np.abs(error) - 0.5),
    }[name]


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("train", [True, False])
def test_loss_is_the_formula_over_the_real_rows(name, train):
    objective, batch = TABLE[name]
    variables, out = logits_of(objective)
    output = objective.loss(variables, batch, jax.random.key(1), train)
    assert int(output.loss.count) == int(MASK.sum())
    np.testing.assert_allclose(
        output.loss.value(), reference(name, out)[np.asarray(MASK)].mean(), rtol=1e-5
    )
    assert ("confusion" in output.metrics) == (not train and name not in ("mse", "mae", "huber"))


@pytest.mark.parametrize("name", TABLE)
def test_masked_rows_may_hold_anything(name):
    objective, batch = TABLE[name]
    variables, _ = logits_of(objective)

    def loss(params, batch):
        return objective.loss(
            {**variables, "params": params}, batch, jax.random.key(1), True
        ).loss.value()

    wild = {**batch, "x": jnp.where(MASK[:, None], X, 1e9), "y": jnp.where(MASK, batch["y"], 0)}
    for a, b in zip(
        *(jax.tree.leaves(jax.grad(loss)(variables["params"], b)) for b in (batch, wild)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_classify_agrees_with_scikit_learn():
    variables, out = logits_of(TABLE["classify"][0])
    predicted = TABLE["classify"][0].predict(variables, BATCH)
    expected = log_loss(np.asarray(Y), predicted["probability"], labels=range(CLASSES))
    output = TABLE["classify"][0].loss(variables, {"x": X, "y": Y}, jax.random.key(0), False)
    assert output.loss.value() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(predicted["label"], out.argmax(1))


def test_predictions_of_binary_classification_and_regression():
    variables, out = logits_of(TABLE["binary"][0])
    predicted = TABLE["binary"][0].predict(variables, BINARY)
    np.testing.assert_allclose(predicted["probability"].sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(predicted["label"], out[:, 0] > 0)
    variables, out = logits_of(TABLE["mse"][0])
    np.testing.assert_allclose(
        TABLE["mse"][0].predict(variables, NUMBERS)["value"], out[:, 0], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("objective", "batch", "bounds", "message"),
    [
        (classify(MLP(4)), BATCH, {"y": (0, 4)}, "give the model 5 outputs"),
        (classify(MLP(4)), BATCH, {"y": (-1, 3)}, "from -1 to 3"),
        (classify(MLP(4)), {**BATCH, "y": X[:, 0]}, {}, "whole numbers"),
        (classify(MLP(4)), {"x": X}, {}, "no such column"),
        (classify_binary(MLP(2)), BINARY, {}, "one output"),
        (classify_binary(MLP(1)), BATCH, {"y": (0, 3)}, "labels 0 and 1"),
        (regress(MLP(2)), NUMBERS, {}, "make them equal"),
    ],
)
def test_refusals_name_what_is_wrong(objective, batch, bounds, message):
    with pytest.raises(jdl.Error, match=message):
        objective.check(batch, bounds)


def test_predict_all_has_the_real_rows_of_an_epoch_in_order():
    objective = TABLE["classify"][0]
    variables, _ = logits_of(objective)
    expected = objective.predict(variables, BATCH)
    data = jdl.data.arrays(x=np.asarray(X), y=np.asarray(Y)).batches(4)  # the last has 1 of 4 rows
    predicted = predict_all(objective, variables, data, columns=("y",))
    assert set(predicted) == {"label", "probability", "y"}
    assert all(isinstance(column, np.ndarray) for column in predicted.values())
    np.testing.assert_array_equal(predicted["y"], Y)
    np.testing.assert_array_equal(predicted["label"], expected["label"])
    np.testing.assert_allclose(predicted["probability"], expected["probability"], rtol=1e-5)
    first = predict_all(objective, variables, data, limit=6)
    assert {name: len(column) for name, column in first.items()} == {"label": 6, "probability": 6}
    np.testing.assert_array_equal(first["probability"], predicted["probability"][:6])


def test_objectives_that_do_not_predict_are_refused():
    data = jdl.data.arrays(x=np.asarray(X)).batches(4)
    with pytest.raises(jdl.Error, match="NextToken predicts nothing"):
        predict_all(next_token(MLP(2)), {}, data)
    with pytest.raises(jdl.Error, match="such as seq2seq"):
        text_scores(next_token(MLP(2)), data, jdl.data.ByteTokenizer())


def test_abilities_are_those_of_the_protocols():
    def abilities(objective):
        protocols = (Predicts, Generates, SamplesLatents, Encodes, DecodesTokens)
        return {protocol for protocol in protocols if isinstance(objective, protocol)}

    assert abilities(classify(MLP(4))) == {Predicts}
    assert abilities(next_token(MLP(4))) == {DecodesTokens}
    vae = VAE((8, 8, 1), 3, (4,), (6,))
    assert abilities(autoencode(vae)) == {Predicts, Generates, Encodes}
    assert abilities(elbo(vae)) == {Predicts, Generates, SamplesLatents, Encodes}
    assert abilities(normalizing_flow(RealNVP())) == abilities(elbo(vae))
    assert abilities(override(elbo(vae), check=print)) == abilities(elbo(vae))


def test_frozen_parameters_do_not_change_and_have_no_optimizer_state():
    objective = classify(MLP(CLASSES, hidden=(8,)))
    learner = jdl.descent(jdl.freeze(objective, "Dense_0"), optax.adamw(1e-1, weight_decay=0.5))
    state = learner.init(jax.random.key(0), BATCH)
    before = learner.eval_variables(state)
    for _ in range(3):
        state, _ = learner.step(state, BATCH)
    after = learner.eval_variables(state)
    jax.tree.map(np.testing.assert_array_equal, before["frozen"], after["frozen"])
    assert (before["params"]["Dense_1"]["kernel"] != after["params"]["Dense_1"]["kernel"]).any()
    assert "Dense_0" not in str(jax.tree_util.tree_structure(state.opt_state))
    free = jdl.descent(objective, optax.adamw(1e-1)).init(jax.random.key(0), BATCH)
    np.testing.assert_array_equal(
        free.params["Dense_0"]["kernel"], before["frozen"]["Dense_0"]["kernel"]
    )
    assert learner.objective.predict(after, BATCH)["label"].shape == (ROWS,)


@pytest.mark.parametrize(("pattern", "message"), [("Conv", "none of the"), (".", "all of the")])
def test_a_pattern_that_freezes_nothing_or_everything_is_refused(pattern, message):
    with pytest.raises(jdl.Error, match=message):
        jdl.freeze(classify(MLP(CLASSES, hidden=(8,))), pattern).init(jax.random.key(0), BATCH)


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        (quantile_loss(0.9), partial(sklearn_metrics.mean_pinball_loss, alpha=0.9)),
        (absolute_percentage_error, sklearn_metrics.mean_absolute_percentage_error),
        (squared_log_error, sklearn_metrics.mean_squared_log_error),
        (
            lambda p, y: 2 * (poisson_loss(jnp.log(p), y) - poisson_loss(jnp.log(y), y)),
            sklearn_metrics.mean_poisson_deviance,
        ),
    ],
    ids=["quantile", "percentage", "log", "poisson"],
)
def test_element_losses_are_those_of_scikit_learn(loss, reference):
    """Seen to fail with the quantile's weights exchanged."""
    predictions, targets = jnp.asarray([0.5, 2.0, 3.0, 4.0]), jnp.asarray([1.0, 1.5, 3.5, 8.0])
    expected = reference(np.asarray(targets), np.asarray(predictions))
    assert float(loss(predictions, targets).mean()) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(jdl.Error, match="between 0 and 1"):
        quantile_loss(1.0)
