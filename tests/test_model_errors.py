"""What own models do that cannot work is refused with a cure, or made to work.

Seen to fail: without `is_train`, `inference` and `eval` among the flags, without `rescale` in
`model_call.column`, without the mask at `init`, without `watched_call`, without the branches of
`flax_errors`, `check_sown` or `check_model`, with NNX's sown tuples kept, with `merge_frozen` that
leaves the variables as they are, with other flags than `train` looked at beside it, with every
tuple taken for what a module sows, with targets of bytes warned of, with flags that change nothing
of it, or the first flag, taken for that of training, and with the outermost layer of NNX named.
"""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jdl
from jdl.data import arrays
from jdl.objectives import classify

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 6)).astype(np.float32)
Y = np.arange(8) % 3
BYTES = RNG.integers(0, 256, (8, 2, 3, 1)).astype(np.uint8)


class Flagged(nn.Module):
    """A model whose `training(flags)` says whether it trains."""

    norm: bool = True

    def layers(self, x, training):
        x = nn.Dense(4)(x.reshape(x.shape[0], -1))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not training)(x)
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not training)(x))


class IsTrain(Flagged):
    @nn.compact
    def __call__(self, x, is_train=False):
        return self.layers(x, is_train)


class Inference(Flagged):
    @nn.compact
    def __call__(self, x, inference=True):
        return self.layers(x, not inference)


class Eval(Flagged):
    @nn.compact
    def __call__(self, x, eval=True):
        return self.layers(x, not eval)


class Train(Flagged):
    @nn.compact
    def __call__(self, x, train=False, features=False):
        return self.layers(x, train)


class Backbone(Flagged):
    """A frozen part, called as in evaluation."""

    @nn.compact
    def __call__(self, x, train=False, features: bool = False):
        return nn.Dense(3)(jax.lax.stop_gradient(self.layers(x, False)))


class Unknown(Flagged):
    @nn.compact
    def __call__(self, x, learning=False):
        return self.layers(x, learning)


class Held(nn.Module):
    """A model that holds its own layers, with flags of other things, one of which fails."""

    @nn.compact
    def __call__(self, x, features=False, missing: bool = False):
        x = nn.BatchNorm(use_running_average=True)(x)
        x = nn.Dropout(0.5, deterministic=True)(x)
        if missing:
            x = nn.Dense(5, name="never_made")(x)
        return x if features else nn.Dense(3)(x)


class SecondFlag(Flagged):
    @nn.compact
    def __call__(self, x, features=False, learning=False):
        return x if features else self.layers(x, learning)


class OnlyNorm(nn.Module):
    @nn.compact
    def __call__(self, x, learning=False):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not learning)(x))


class Sows(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.sow("losses", "l2", (x**2).sum())
        return nn.Dense(3)(x)


class Keeps(nn.Module):
    """A model that keeps a tuple: the smallest and the largest input."""

    @nn.compact
    def __call__(self, x):
        zeros = jnp.zeros(x.shape[-1])
        kept = self.variable("stats", "range", lambda: (zeros, zeros))
        if self.is_mutable_collection("stats"):
            kept.value = (
                jnp.minimum(kept.value[0], x.min(0)),
                jnp.maximum(kept.value[1], x.max(0)),
            )
        return nn.Dense(3)(x)


class Draws(nn.Module):
    deterministic: bool = False

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Dropout(0.5)(x, deterministic=self.deterministic))


class Linear(nnx.Module):
    def __init__(self, *, rngs):
        self.layer = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.layer(x)


class Intermediate(Linear):
    def __call__(self, x):
        self.out = nnx.Intermediate((self.layer(x),))  # as `sow` leaves it
        return self.layer(x)


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x, *, lengths, mask):
        return nn.Dense(3)(jnp.where(mask[..., None], x, 0.0).sum(1))


def trained(model, x=X, objective=None, **columns):
    """An objective, and its variables before and after a step's forward pass."""
    batch = {"x": jnp.asarray(x), "y": jnp.asarray(Y), **columns}
    objective = objective or classify(model)
    objective.check(batch, {})
    before = objective.init(jax.random.key(0), batch)
    after = objective.loss(before, batch, jax.random.key(1), True).model_state
    return objective, before, after


def test_flags_of_training_have_many_names():
    states = [trained(model())[2] for model in (Train, IsTrain, Inference, Eval)]
    for state in states:
        assert np.asarray(state["batch_stats"]["BatchNorm_0"]["mean"]).any()
        assert jax.tree.all(jax.tree.map(np.array_equal, state, states[0]))


MISTAKES = {
    "an unknown flag": (Unknown(), "dropout layers drops anything.*; with learning=True"),
    "an unknown flag without norm": (Unknown(norm=False), "jdl does not set learning of"),
    "an unknown flag beside another": (SecondFlag(), "jdl does not set learning of"),
    "an unknown flag of norm": (OnlyNorm(), "statistics of BatchNorm do not change"),
    "losses": (Sows(), "sows l2 in the collection 'losses'"),
    "always dropout": (Draws(), "draws random numbers in evaluation"),
    "a module of NNX": (Linear(rngs=nnx.Rngs(0)), r"jdl.nnx\(lambda rngs"),
    "a class of NNX": (Linear, r"jdl.nnx\(lambda rngs"),
    "a class": (Sows, "the class Sows: give an instance"),
    "a pair": ((lambda key, x: {}, lambda params, x: x), r"jdl.Model\(init, apply\)"),
    "nothing": (None, "NoneType is no model"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_models_that_cannot_be_trained_are_refused(name):
    model, message = MISTAKES[name]
    with pytest.raises(jdl.Error, match=message):
        trained(model)


def test_a_frozen_part_of_a_model_that_is_told_whether_it_trains():
    _, before, after = trained(Backbone())
    assert jax.tree.all(jax.tree.map(np.array_equal, before["batch_stats"], after["batch_stats"]))


def test_layers_that_are_held_whatever_the_flags_are_no_reason_to_refuse():
    """`jdl check` looks at them."""
    _, before, after = trained(Held())
    assert jax.tree.all(jax.tree.map(np.array_equal, before["batch_stats"], after["batch_stats"]))


def test_a_tuple_is_a_state():
    low, high = trained(Keeps())[2]["stats"]["range"]
    np.testing.assert_array_equal(low, X.min(0).clip(max=0))
    np.testing.assert_array_equal(high, X.max(0).clip(min=0))


def test_a_flag_that_is_given_is_not_refused():
    inputs = lambda batch: ((batch["x"],), {"learning": False})  # noqa: E731
    trained(jdl.adapt_model(Unknown(), inputs=inputs))


@pytest.mark.parametrize(
    "make", [Linear(rngs=nnx.Rngs(0)), Linear, lambda: Linear(rngs=nnx.Rngs(0))]
)
def test_nnx_takes_a_function_of_random_streams(make):
    with pytest.raises(jdl.Error, match="lambda rngs"):
        jdl.nnx(make)


class Hidden(nnx.Module):
    """A layer in a list, and a mistake of its own."""

    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Linear(6, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)])

    def __call__(self, x):
        if x.shape[-1] == 7:
            raise TypeError("seven")
        return self.blocks[1](self.blocks[0](x))


def test_the_layer_of_nnx_that_inputs_do_not_fit_is_named():
    """And an error of the model itself is left as it is."""
    objective, variables, _ = trained(jdl.nnx(lambda rngs: Hidden(rngs)))
    with pytest.raises(jdl.Error, match=r"blocks/0 \(nnx.Linear\) of Hidden .* \(8, 5\): dot_gen"):
        objective.predict(variables, {"x": X[:, :5]})
    with pytest.raises(TypeError, match=r"^seven$"):
        objective.predict(variables, {"x": np.ones((8, 7), np.float32)})


def test_intermediates_of_nnx_are_dropped():
    assert not trained(jdl.nnx(lambda rngs: Intermediate(rngs=rngs)))[2]


def test_a_model_that_asks_for_the_mask_has_it_at_init():
    x = RNG.normal(size=(8, 5, 2)).astype(np.float32)
    trained(Masked(), x, length=jnp.arange(1, 9).clip(max=5))


def test_predictions_of_what_is_no_batch_or_of_another_shape():
    objective, variables, _ = trained(Train())
    with pytest.raises(jdl.Error, match="a dict of columns"):
        objective.predict(variables, X)
    with pytest.raises(jdl.Error, match=r"do not fit inputs of shape \(8, 5\)"):
        objective.predict(variables, {"x": X[:, :5]})


def test_bytes_in_a_batch_are_scaled_as_in_training():
    objective, variables, _ = trained(Train(), BYTES)
    columns = arrays(x=BYTES, y=Y).batches(8)[0]
    raw = objective.predict(variables, {"x": BYTES})
    assert jax.tree.all(jax.tree.map(np.array_equal, raw, objective.predict(variables, columns)))
    assert columns["x"].max() <= 1


def test_bytes_of_three_axes_are_said_to_be_whole_numbers():
    with pytest.warns(UserWarning, match=r"x\[..., None\]"):
        arrays(x=BYTES[..., 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays(x=BYTES, masks=BYTES[..., 0])


def test_frozen_variables_are_merged_for_the_model_itself(tmp_path):
    model = Train()
    _, variables, _ = trained(model, objective=jdl.freeze(classify(model), "Dense_0"))
    plain = jdl.merge_frozen(variables)
    assert plain["params"].keys() == {"Dense_0", "Dense_1", "BatchNorm_0"}
    assert "frozen" not in plain
    jdl.weights.save(variables, tmp_path / "w.safetensors")
    loaded = jdl.pretrained(model, jdl.weights.load(tmp_path / "w.safetensors"))
    again = classify(loaded).init(jax.random.key(3), {"x": X, "y": Y})
    assert jax.tree.all(jax.tree.map(np.array_equal, again, plain))
