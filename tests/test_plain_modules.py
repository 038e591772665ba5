"""Plain Flax modules, written as in Flax's own guides, without jdl: they train as ours do.

Seen to fail: a module that gets `train` unasked, `deterministic` not negated, lengths left out,
statistics of BatchNorm of one device, and the same dropout mask on every device.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from harness import digest

import jdl


class Simple(nn.Module):
    """A module that takes x alone."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(16)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


class Convolutional(nn.Module):
    """A CNN with Flax's BatchNorm and Dropout; its argument must be given."""

    @nn.compact
    def __call__(self, x, training: bool):
        x = nn.Conv(8, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not training)(x)
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2)).reshape(len(x), -1)
        x = nn.Dropout(0.2, deterministic=not training)(x)
        return nn.Dense(10)(x)


class Attending(nn.Module):
    """A transformer's block on the rows of an image, with Flax's flag."""

    @nn.compact
    def __call__(self, x, *, deterministic):
        x = nn.Dense(16)(x[..., 0])
        attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1)
        x = x + attention(x, deterministic=deterministic)
        return nn.Dense(10)(x.mean(1))


class Noisy(nn.Module):
    """A module with a random stream of its own, and a layer with `use_running_average`."""

    @nn.compact
    def __call__(self, x, use_running_average=True):
        x = x.reshape(len(x), -1)
        if not use_running_average:
            x = x + 0.01 * jax.random.normal(self.make_rng("noise"), x.shape)
        x = nn.BatchNorm()(nn.Dense(16)(x), use_running_average)
        return nn.Dense(10)(x)


class Net(nnx.Module):
    """A module of Flax NNX: layers in a list, BatchNorm, Dropout."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(64, 16, rngs=rngs), nnx.Linear(16, 10, rngs=rngs)])
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x):
        x = self.layers[0](x.reshape(len(x), -1))
        return self.layers[1](self.dropout(nnx.relu(self.norm(x))))


MODULES = {kind.__name__: kind() for kind in (Simple, Convolutional, Attending, Noisy)}
MODULES["Net"] = jdl.nnx(lambda rngs: Net(rngs=rngs))


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 30
    module: str = "Simple"


def make_run(c):
    train, test = jdl.data.digits()
    learner = jdl.descent(jdl.objectives.classify(MODULES[c.module]), optax.sgd(0.1))
    return jdl.Run(c, learner, train.shuffled(48, c.seed), test=test.batches(120))


def train(root, name, elastic=0, steps=30, **options):
    config = Config(name=name, module=name, elastic=elastic, steps=steps)
    return jdl.fit(make_run(config), jdl.Options(root=root, quiet=True, save_every=10, **options))


@pytest.fixture(params=MODULES)
def name(request):
    return request.param


@pytest.mark.slow
def test_trains_evaluates_and_repeats(name, tmp_path):
    one, other = (train(tmp_path / part, name) for part in "ab")
    assert digest(one) == digest(other)
    assert float(one.metrics["test"]["accuracy"].value()) > 0.2


@pytest.mark.slow
def test_resumes_to_the_same_bits(name, tmp_path):
    with pytest.raises(jdl.Error, match="paused"):
        train(tmp_path / "paused", name, until=20)
    resumed = train(tmp_path / "paused", name)
    assert resumed.steps == 10
    assert digest(resumed) == digest(train(tmp_path / "whole", name))


@pytest.mark.slow
def test_learns_on_a_mesh_by_pmap_and_elastic(name, tmp_path):
    """BatchNorm of a mesh is that of one device; those of pmap and elastic are averaged."""
    for way in ({"devices": 4}, {"devices": 4, "parallel": "pmap"}, {"elastic": 4}):
        found = train(tmp_path / str(way), name, **way)
        assert float(found.metrics["test"]["accuracy"].value()) > 0.2
    one, four = (train(tmp_path / str(n), name, devices=n, steps=5) for n in (1, 4))
    for a, b in zip(*map(jax.tree.leaves, (one.state.params, four.state.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_statistics_of_batch_normalization_are_those_of_all_devices(tmp_path):
    """By pmap, each device has those of its own rows: the state keeps their mean."""
    one, four = (
        train(tmp_path / str(n), "Convolutional", steps=1, devices=n, parallel="pmap")
        for n in (1, 4)
    )
    means = [run.state.model_state["batch_stats"]["BatchNorm_0"]["mean"] for run in (one, four)]
    np.testing.assert_allclose(*means, rtol=1e-4, atol=1e-7)


class Masks(nn.Module):
    """A module that keeps the dropout mask of its last batch."""

    @nn.compact
    def __call__(self, x, train):
        mask = nn.Dropout(0.5, deterministic=not train)(jnp.ones_like(x))
        self.variable("masks", "last", jnp.zeros_like, x).value = mask
        return x * self.param("w", nn.initializers.ones, ())


def test_each_device_draws_its_own_dropout_mask():
    objective = jdl.objectives.classify(Masks())
    batch = {"x": jnp.ones((4, 2, 8)), "y": jnp.zeros((4, 2), jnp.int32)}
    variables = objective.init(jax.random.key(0), {name: c[0] for name, c in batch.items()})

    def masks(batch):
        output = objective.loss(variables, batch, jax.random.key(0), True)
        return output.model_state["masks"]["last"]

    assert len({mask.tobytes() for mask in np.asarray(jax.pmap(masks, "batch")(batch))}) == 4


class Lengths(nn.Module):
    """Flax's LSTM, by its own names."""

    @nn.compact
    def __call__(self, x, seq_lengths):
        out = nn.RNN(nn.LSTMCell(8), return_carry=True)(x, seq_lengths=seq_lengths)
        return nn.Dense(3)(out[0][1])


@pytest.mark.slow
def test_lengths_are_given_where_they_are_asked_for():
    objective = jdl.objectives.classify(Lengths())
    batch = {
        "x": jax.random.normal(jax.random.key(0), (4, 6, 2)),
        "y": jnp.zeros(4, jnp.int32),
        "length": jnp.asarray([6, 3, 1, 2]),
    }
    variables = objective.init(jax.random.key(1), batch)
    padded = {**batch, "x": batch["x"].at[1, 3:].set(9)}
    one, other = (objective.predict(variables, b)["probability"] for b in (batch, padded))
    np.testing.assert_array_equal(one, other)


class Late(nn.Module):
    """A module that creates a variable in training only."""

    @nn.compact
    def __call__(self, x, train):
        if train:
            self.variable("seen", "count", jnp.zeros, ()).value += 1
        return nn.Dense(10)(x.reshape(len(x), -1))


class Sowing(nn.Module):
    """A module that stores an output in an existing collection."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1))
        if train:
            self.sow("batch_stats", "mean_of_x", x.mean())
        return nn.Dense(10)(x)


class AnyKeyword(nn.Module):
    """A module that passes keywords on without naming them."""

    @nn.compact
    def __call__(self, x, **options):
        return Convolutional()(x, **options)


class Always(nn.Module):
    """A module that counts its calls in evaluation too."""

    @nn.compact
    def __call__(self, x):
        self.variable("seen", "count", jnp.zeros, ()).value += 1
        return nn.Dense(10)(x.reshape(len(x), -1))


REFUSED = {
    "create all of them when it is initialized": Late(),
    "creates variables in training that it does not have": Sowing(),
    "takes any keyword": AnyKeyword(),
    "Let it change them in training only": Always(),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message, tmp_path, monkeypatch):
    monkeypatch.setitem(MODULES, "Refused", REFUSED[message])
    with pytest.raises(jdl.Error, match=message):
        train(tmp_path, "Refused")
    assert not list(tmp_path.iterdir())


class Tokens(nn.Module):
    """A language model by Flax's LSTM, with the numbers of real tokens."""

    @nn.compact
    def __call__(self, x, seq_lengths):
        assert x.shape[1] == 4
        jax.debug.callback(lambda lengths: CUT.append(int(lengths.max())), seq_lengths)
        return nn.Dense(7)(nn.RNN(nn.LSTMCell(8))(nn.Embed(7, 8)(x), seq_lengths=seq_lengths))


CUT = []


@pytest.mark.slow
def test_lengths_are_at_most_those_of_the_inputs():
    """`next_token` leaves out the last of five tokens."""
    objective = jdl.objectives.next_token(Tokens())
    batch = {"x": jnp.ones((2, 5), jnp.int32), "length": jnp.asarray([5, 3])}
    variables = objective.init(jax.random.key(0), batch)
    CUT.clear()
    objective.loss(variables, batch, jax.random.key(1), True)
    jax.effects_barrier()
    assert set(CUT) == {4}


BATCH = {
    "x": jax.random.normal(jax.random.key(5), (12, 8, 8, 1)),
    "y": jnp.arange(12) % 10,
    "mask": jnp.ones(12, bool),
}


@pytest.mark.slow
def test_a_population_trains_each_member_as_alone(name):
    learner = jdl.descent(jdl.objectives.classify(MODULES[name]), optax.sgd(0.1))
    many = jdl.population(learner, (0, 3))
    state, _ = jax.jit(many.step)(many.init(jax.random.key(9), BATCH), BATCH)
    for n, seed in enumerate((0, 3)):
        alone, _ = jax.jit(learner.step)(learner.init(jax.random.key(seed), BATCH), BATCH)
        for a, b in zip(*map(jax.tree.leaves, (state.params, alone.params)), strict=True):
            np.testing.assert_allclose(a[n], b, rtol=1e-4, atol=1e-5)


def test_rows_are_evaluated_alone(name):
    """With running statistics and without dropout."""
    objective = jdl.objectives.classify(MODULES[name])
    variables = objective.init(jax.random.key(0), BATCH)
    half = {column: values[:6] for column, values in BATCH.items()}
    one, other = (objective.predict(variables, batch)["probability"] for batch in (half, BATCH))
    np.testing.assert_allclose(one, other[:6], rtol=1e-5)


class Counting(Net):
    """A module with a state of its own: the number of training steps."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        if not self.dropout.deterministic:
            self.calls[...] += 1
        return super().__call__(x)


@pytest.mark.slow
@pytest.mark.parametrize("way", [{"devices": 4, "parallel": "pmap"}, {"elastic": 4}], ids=str)
def test_a_state_that_parts_of_a_batch_cannot_share_is_refused(way, tmp_path, monkeypatch):
    monkeypatch.setitem(MODULES, "Counting", jdl.nnx(lambda rngs: Counting(rngs=rngs)))
    with pytest.raises(jdl.Error, match="changes its collection 'state' in training"):
        train(tmp_path, "Counting", **way)
    assert train(tmp_path, "Counting", devices=4).state.model_state["state"]["calls"] == 30


@pytest.mark.slow
def test_nnx_draws_anew_with_each_key_in_training_and_changes_nothing_in_evaluation():
    objective = jdl.objectives.classify(jdl.nnx(lambda rngs: Counting(rngs=rngs)))
    variables = objective.init(jax.random.key(0), BATCH)

    def outputs(train):
        return [objective.loss(variables, BATCH, jax.random.key(n), train) for n in (0, 1)]

    (one, other), (again, same) = outputs(train=True), outputs(train=False)
    assert one.loss.value() != other.loss.value()
    assert again.loss.value() == same.loss.value()
    assert [out.model_state["state"]["calls"] for out in (one, again)] == [1, 0]
    changed = one.model_state["batch_stats"]["norm"]["mean"]
    assert not np.array_equal(changed, variables["batch_stats"]["norm"]["mean"])
    jax.tree.map(
        np.testing.assert_array_equal, again.model_state["batch_stats"], variables["batch_stats"]
    )
