"""Models of two plain functions, adapted inputs and outputs, and what is refused, with its cure.

Seen to fail: a key that is the same in every step and in evaluation, and an NNX module's late
variable that was dropped without a word.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from harness import digest
from model_rows import SIZE, apply_pair, init_pair

import jdl
from jdl.inspect.cost import cost
from jdl.inspect.evaluate import evaluate
from jdl.inspect.predict import predict
from jdl.metrics import scalars
from jdl.models.autoencoder import Autoencoder
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.objectives import classify
from jdl.train.nan_trace import nan_trace

X = jax.random.normal(jax.random.key(1), (6, 4, 4, 1))
BATCH = {"x": X, "y": jnp.arange(6) % 5, "mask": jnp.ones(6, bool)}
SPEC = {name: jax.ShapeDtypeStruct(column.shape, column.dtype) for name, column in BATCH.items()}


def counting_init(key, x, train):
    """Asks for `train`, which is false when it is initialized."""
    assert train is False
    return {"w": np.eye(16, 5)}, {"steps": 0, "seen": 1.5}


def counting_apply(params, state, x, train, key):
    x = x.reshape(len(x), -1)
    if train:
        x = x + jax.random.normal(key, x.shape)
        state = {**state, "steps": state["steps"] + 1}
    else:
        assert key is None
        state = {**state, "seen": state["seen"] + 1}  # which evaluation does not keep
    return x @ params["w"], state


COUNTING = jdl.Model(counting_init, counting_apply, stateful=True)


def test_a_pair_has_its_key_in_training_and_its_state_changes_there_alone():
    objective = classify(COUNTING)
    variables = objective.init(jax.random.key(0), BATCH)
    assert {leaf.weak_type for leaf in jax.tree.leaves(variables)} == {False}

    def outputs(train):
        return [objective.loss(variables, BATCH, jax.random.key(n), train) for n in (0, 1)]

    (one, other), (again, same) = outputs(True), outputs(False)
    assert one.loss.value() != other.loss.value()
    assert again.loss.value() == same.loss.value()
    assert one.model_state["state"] == {"steps": 1, "seen": 1.5}
    assert again.model_state["state"] == {"steps": 0, "seen": 1.5}


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 8


def fit(model, root, steps=8, columns=None, **options):
    rng = np.random.default_rng(0)
    data = jdl.data.arrays(
        x=rng.random((24, 4, 4, 1), np.float32), y=np.arange(24) % 5, **(columns or {})
    )
    config = Config(name="own", steps=steps, elastic=options.pop("elastic", 0))
    learner = jdl.descent(classify(model), optax.sgd(0.1))
    run = jdl.Run(config, learner, data.shuffled(8, 0), test=data.batches(16))
    return jdl.fit(run, jdl.Options(root=root, quiet=True, save_every=3, **options)), run


@pytest.mark.slow
def test_a_stateful_pair_resumes_to_the_same_bits(tmp_path):
    with pytest.raises(jdl.Error, match="paused"):
        fit(COUNTING, tmp_path / "paused", until=4)
    resumed, run = fit(COUNTING, tmp_path / "paused")
    whole, _ = fit(COUNTING, tmp_path / "whole")
    assert resumed.steps < 8
    assert digest(resumed) == digest(whole)
    assert whole.state.model_state["state"]["steps"] == 8
    assert evaluate(jdl.restore(whole.folder, run))["test"] == scalars(whole.metrics["test"])
    with pytest.raises(jdl.Error, match="changes its collection 'state' in training"):
        fit(COUNTING, tmp_path / "pmap", devices=4, parallel="pmap")


class Two(nn.Module):
    """Two inputs whose order matters, and three outputs."""

    @nn.compact
    def __call__(self, numbers, pixels, deterministic):
        x = jnp.concatenate([2 * numbers, pixels.reshape(len(pixels), -1)], -1)
        features = nn.Dropout(0.1, deterministic=deterministic)(nn.relu(nn.Dense(8)(x)))
        return {"features": features, "logits": nn.Dense(5)(features)}


BOTH = {**BATCH, "more": jax.random.normal(jax.random.key(2), (6, 3))}
WAYS = {
    "by place": ("more", "x"),
    "by name": {"pixels": "x", "numbers": "more"},
    "by a function": lambda batch: ((batch["more"],), {"pixels": batch["x"]}),
}


def test_columns_are_given_by_place_by_name_and_by_a_function():
    direct, predicted = Two(), []
    for inputs in WAYS.values():
        objective = classify(jdl.adapt_model(direct, inputs, "logits"))
        variables = objective.init(jax.random.key(0), BOTH)
        predicted.append(objective.predict(variables, BOTH)["probability"])
    logits = direct.apply(variables, BOTH["more"], BOTH["x"], True)["logits"]
    for found in predicted:
        np.testing.assert_array_equal(found, jax.nn.softmax(logits))


class Output(NamedTuple):
    """An output with fields."""

    logits: jax.Array


@pytest.mark.parametrize(
    ("outputs", "made"),
    [
        (1, lambda out: (jnp.zeros(()), out)),
        ("logits", lambda out: Output(logits=out)),
        (lambda out: out["a"][0], lambda out: {"a": [out]}),
    ],
    ids=["place", "field", "function"],
)
def test_a_part_of_the_output_is_picked(outputs, made):
    pair = jdl.Model(init_pair, lambda params, x: made(apply_pair(params, x)))
    objective = classify(jdl.adapt_model(pair, outputs=outputs))
    variables = objective.init(jax.random.key(0), BATCH)
    plain = classify(jdl.Model(init_pair, apply_pair))
    one, other = (o.predict(variables, BATCH)["probability"] for o in (objective, plain))
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_an_adapted_run_is_evaluated_predicted_measured_and_traced(tmp_path):
    model = jdl.adapt_model(Two(), ("more", "image"), "logits")
    rows = np.random.default_rng(1).random((24, 3), np.float32)
    images = np.random.default_rng(2).random((24, 2, 2, 1), np.float32)
    result, run = fit(model, tmp_path, columns={"more": rows, "image": images})
    trained = jdl.restore(result.folder, run)
    assert evaluate(trained)["test"] == scalars(result.metrics["test"])
    np.savez(tmp_path / "both.npz", more=rows[:2], image=images[:2])
    found = predict(trained, [tmp_path / "both.npz"])
    batch = {"more": jnp.asarray(rows[:2]), "image": jnp.asarray(images[:2])}
    expected = trained.objective.predict(trained.variables, batch)["probability"]
    np.testing.assert_allclose([row["probability"] for row in found], expected, rtol=1e-5)
    np.savez(tmp_path / "one.npz", more=rows[:2])
    with pytest.raises(jdl.Error, match="needs an array image"):
        predict(trained, [tmp_path / "one.npz"])
    with pytest.raises(jdl.Error, match="read the columns image, more: save them in one"):
        predict(trained, [tmp_path / "image.png"])
    assert cost(run).operations > 0
    wrong = {**run.train[0], "image": run.train[0]["image"].at[0].set(jnp.inf)}
    assert "column image" in nan_trace(run.learner, trained.state, wrong)


def test_what_an_objective_makes_of_x_is_given_in_the_place_of_x():
    """Next-token prediction drops the last token of x; the other column stays."""
    seen = []

    def apply(params, x, more):
        seen.append((x.shape, more.shape))
        return params[x] + 0 * more.sum()

    pair = jdl.Model(lambda key: jnp.zeros((SIZE, SIZE)), apply)
    batch = {"x": jnp.ones((2, 5), jnp.int32), "more": jnp.ones((2, 3))}
    objective = jdl.objectives.next_token(jdl.adapt_model(pair, ("x", "more")))
    objective.check(batch, {})
    variables = objective.init(jax.random.key(0), batch)
    objective.loss(variables, batch, jax.random.key(1), True)
    assert set(seen) == {((2, 4), (2, 3))}


@pytest.mark.slow
def test_without_x_lengths_are_as_they_are_and_the_mask_is_that_of_the_rows():
    """Seen to fail: lengths cut to 8 by an image of 8 rows; an error for a first input (B,)."""
    seen = []

    def apply(params, first, question, lengths, mask):
        seen.append((lengths, mask))
        return params + 0 * question.sum((1, 2))[:, None]

    model = jdl.Model(lambda key: jnp.zeros((1, 5)), apply)
    lengths, mask = jnp.asarray([20, 3]), jnp.asarray([True, False])
    batch = {"question": jnp.ones((2, 20, 3)), "length": lengths, "mask": mask}
    for first in (jnp.ones((2, 8, 8)), jnp.ones(2)):
        columns = {**batch, "first": first, "y": jnp.asarray([0, 1])}
        objective = jdl.objectives.classify(jdl.adapt_model(model, ("first", "question")))
        variables = objective.init(jax.random.key(0), columns)
        seen.clear()
        objective.loss(variables, columns, jax.random.key(1), True)
        for found, expected in zip(seen[0], (lengths, mask), strict=True):
            np.testing.assert_array_equal(found, expected)
    dense = {**batch, "tokens": jnp.ones((2, 20, 3)), "y": jnp.zeros((2, 20), jnp.int32)}
    of_steps = jdl.Model(lambda key: jnp.zeros((3, 5)), lambda params, x: x @ params)
    objective = jdl.objectives.classify(jdl.adapt_model(of_steps, ("tokens",)))
    found = objective.loss({"params": jnp.zeros((3, 5))}, dense, jax.random.key(1), True)
    assert found.loss.count == 20  # the steps of the one real row


def test_a_parameter_of_init_with_a_default_is_not_an_input():
    def init(key, hidden=3):
        return jnp.zeros((hidden, 5))

    model = jdl.Model(init, lambda params, x: x @ params)
    assert model.init(jax.random.key(0), jnp.ones((2, 3)))["params"].shape == (3, 5)


def test_a_split_random_stream_of_nnx_has_a_key_for_each_layer():
    """Seen to fail: one key, of which each of the mapped layers would take a part."""

    class Dropouts(nnx.Module):
        def __init__(self, rngs):
            make = nnx.vmap(lambda rngs: nnx.Dropout(0.5, rngs=rngs))
            self.one = nnx.split_rngs(splits=2)(make)(rngs)

        def __call__(self, x):
            return nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(self.one, x)

    model = jdl.nnx(lambda rngs: Dropouts(rngs))
    one, two = model.apply(
        model.init(jax.random.key(0)), jnp.ones(64), train=True, rngs={"dropout": jax.random.key(1)}
    )
    assert (one != two).any()


class Keeping(nnx.Module):
    """A module that keeps its last batch."""

    def __init__(self, rngs, rows=0):
        self.out = nnx.Linear(16, 5, rngs=rngs)
        self.last = nnx.Variable(jnp.zeros((rows, 16)))

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        self.last = nnx.Variable(self.last[...] + x if len(self.last[...]) else x)
        return self.out(x)


class Creating(nnx.Module):
    """A module that creates a variable in training."""

    def __init__(self, rngs):
        self.out = nnx.Linear(16, 5, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.late = nnx.data(None)

    def __call__(self, x):
        if not self.dropout.deterministic:
            self.late = nnx.Variable(jnp.zeros(()))
        return self.out(x.reshape(len(x), -1))


class Asking(nn.Module):
    """A module with an argument that jdl does not know."""

    @nn.compact
    def __call__(self, x, context):
        return nn.Dense(5)(x)


class Whole(nn.Module):
    """A parameter that is no float."""

    @nn.compact
    def __call__(self, x):
        self.param("order", lambda key: jnp.arange(3))
        return nn.Dense(5)(x.reshape(len(x), -1))


def pair(apply, stateful=False, init=None):
    init = init or ((lambda key, x: (init_pair(key, x), 0.0)) if stateful else init_pair)
    return jdl.Model(init, apply, stateful)


def state_of_batch(key, x):
    return init_pair(key, x), jnp.zeros((len(x), 2))


class AnyKeyword(nnx.Module):
    """A module with **, of which it cannot be known what it needs."""

    def __init__(self, rngs):
        self.out = nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x, **options):
        return self.out(x.reshape(len(x), -1))


REFUSED = {
    "__call__ of AnyKeyword takes any keyword": jdl.nnx(lambda rngs: AnyKeyword(rngs)),
    r"output of shape \(5,\) for a batch of 6 rows: its first axis": pair(
        lambda params, x: apply_pair(params, x).sum(0)
    ),
    "gives a dict with a, b, .*jdl.adapt_model": pair(lambda params, x: {"a": x, "b": x}),
    "gives a tuple of 2.*stateful=True": pair(lambda params, x: (apply_pair(params, x), 1)),
    "must return .out, state., and it returned an array": pair(
        lambda params, state, x: apply_pair(params, x), stateful=True
    ),
    "must return a state of the structure": pair(
        lambda params, state, x: (apply_pair(params, x), {"new": state}), stateful=True
    ),
    r"must return \(params, state\)": pair(
        lambda params, state, x: (x, state), True, lambda key: {"w": 1.0}
    ),
    r"state of .* has the shape \(6, 2\), and \(7, 2\) for 7 rows": pair(
        lambda params, state, x: (apply_pair(params, x), state), True, state_of_batch
    ),
    "missing a required argument: 'context'.*jdl.adapt_model": pair(
        lambda params, x, context: apply_pair(params, x)
    ),
    "Asking cannot be called.*missing a required argument: 'context'": Asking(),
    "init of jdl.Model cannot be called: missing a required argument: 'other'": pair(
        apply_pair, init=lambda key, x, other: init_pair(key, x)
    ),
    "__call__ of jdl.Model.* takes any keyword": pair(
        lambda params, x, **rest: apply_pair(params, x)
    ),
    "parameter 0 of .* is int32.*keep it in the state": pair(
        lambda params, x: apply_pair(params[1], x), init=lambda key, x: (1, init_pair(key, x))
    ),
    "parameter order of Whole is int32": Whole(),
    "1/name in the parameters .* is 'mlp', and must be an array": pair(
        lambda params, x: apply_pair(params[0], x),
        init=lambda key, x: (init_pair(key, x), {"name": "mlp"}),
    ),
    r"variable state/last of Keeping has the shape \(0, 16\), and \(7, 16\) after a training": (
        jdl.nnx(lambda rngs: Keeping(rngs))
    ),
    "Keeping was initialized for 6 rows, and cannot be trained on 7": (
        jdl.nnx(lambda rngs: Keeping(rngs, 6))
    ),
    "names the column 'image', but the data have only mask, x, y": (
        jdl.adapt_model(MLP(5), ("image",))
    ),
    "needs the column 'image', but the data have only mask, x, y": jdl.adapt_model(
        MLP(5), lambda batch: ((batch["image"],), {})
    ),
    r"must return \(args, kwargs\)": jdl.adapt_model(MLP(5), lambda batch: batch["x"]),
    "outputs='logits' picks an entry of a dict, but .* with features": jdl.adapt_model(
        pair(lambda params, x: {"features": x}), outputs="logits"
    ),
    "outputs=2 picks from a tuple, but .* of 2": jdl.adapt_model(
        pair(lambda params, x: (x, x)), outputs=2
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses_before_anything_is_computed(message):
    with pytest.raises(jdl.Error, match=message):
        classify(REFUSED[message]).check(SPEC, {})


def test_an_nnx_module_that_creates_variables_in_training_is_refused():
    objective = classify(jdl.nnx(lambda rngs: Creating(rngs)))
    variables = objective.init(jax.random.key(0), BATCH)
    with pytest.raises(jdl.Error, match=r"Creating creates variables .*state"):
        jax.eval_shape(lambda b: objective.loss(variables, b, jax.random.key(0), True).loss, BATCH)


TWICE = jdl.adapt_model(MLP(5), ("x",))
WITH_METHODS = Autoencoder((4, 4, 1), 3)
REFUSED_AT_ONCE = {
    "adapt them once": lambda: jdl.adapt_model(TWICE, ("y",)),
    r"write inputs=\('x',\)": lambda: jdl.adapt_model(MLP(5), "x"),
    "name no column": lambda: jdl.adapt_model(MLP(5), ()),
    "apply of jdl.Model must be a function": lambda: jdl.Model(init_pair, None),
    "a jdl.Model has init and apply alone": lambda: jdl.objectives.autoencode(pair(apply_pair)),
    "MLP has no encode": lambda: jdl.objectives.elbo(MLP(5)),
    "seq2seq needs a model with the methods encode and decode": lambda: jdl.objectives.seq2seq(
        GPT(SIZE), 0
    ),
    "makes the inputs of the model's __call__ itself": lambda: jdl.objectives.diffusion(
        TWICE
    ).check(SPEC, {}),
    "makes the inputs of the model's encode itself": lambda: encode(
        jdl.adapt_model(WITH_METHODS, ("x",))
    ),
    "outputs of adapt_model are of the model's call": lambda: encode(
        jdl.adapt_model(WITH_METHODS, outputs=lambda out: out)
    ),
    "freeze needs parameters in dicts": lambda: jdl.freeze(classify(pair(apply_pair)), "w").init(
        jax.random.key(0), BATCH
    ),
}


def encode(model):
    objective = jdl.objectives.autoencode(model)
    variables = WITH_METHODS.init(jax.random.key(0), X)
    jax.eval_shape(lambda batch: objective.encode(variables, batch), BATCH)


@pytest.mark.parametrize("message", REFUSED_AT_ONCE)
def test_refuses_what_would_have_no_effect(message):
    with pytest.raises(jdl.Error, match=message):
        REFUSED_AT_ONCE[message]()
