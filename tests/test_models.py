"""Properties of every model, over one table: tests/model_table.py."""

from functools import lru_cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_rows import ROWS, WITH_DECODER, by_tier
from model_table import TABLE
from unsupervised_table import UNSUPERVISED
from xla_flags import IN_PIECES

import jdl
from jdl.models.alexnet import AlexNet
from jdl.models.cnn import CNN
from jdl.models.convnext import convnext
from jdl.models.efficientnet import InvertedResidual, efficientnet, mobilenet_v3
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.resnet import Block, ResNet, resnet
from jdl.models.rnn import RNN
from jdl.models.t5 import T5
from jdl.models.transformer import TransformerConfig
from jdl.models.vgg import vgg

ALL = TABLE + UNSUPERVISED


def each(name, rows, tier="nightly"):
    """Tests with one row after the other: all tests of a row, then those of the next."""
    return pytest.mark.parametrize(name, by_tier(rows, tier), scope="module")


def learner_of(row):
    return row.wrap(jdl.descent(row.objective(row.model), optax.adamw(row.rate)))


@lru_cache(2)
def jitted(row):
    """The row's learner, with its init and step compiled: the programs of test_golden.py."""
    learner = learner_of(row)
    return learner, *(jax.jit(f, compiler_options=IN_PIECES) for f in (learner.init, learner.step))


@lru_cache(2)
def first_step(row):
    """The state and the metrics after a step of the row's learner, and the state before it."""
    _, init, step = jitted(row)
    state = init(jax.random.key(0), row.batch())
    return state, *step(state, row.batch())


@lru_cache(2)
def model_of(row):
    """The row's model, compiled for evaluation, with fresh variables."""
    _, init, _ = jitted(row)
    state = init(jax.random.key(0), row.batch())
    variables = {"params": state.params, **state.model_state}
    return jax.jit(lambda batch, mask=None: row.apply(variables, *row.inputs(batch), mask=mask))


@each("row", TABLE)
def test_outputs_have_the_documented_shape_in_float32(row):
    out = model_of(row)(row.batch())
    assert out.shape == (ROWS, *row.output)
    assert out.dtype == jnp.float32


@each("row", ALL, "slow")
def test_parameter_counts_are_those_computed_by_hand(row):
    before, _, _ = first_step(row)
    assert sum(leaf.size for leaf in jax.tree.leaves(before.params)) == row.parameters


@each("row", TABLE, "slow")
def test_overfits_a_small_batch(row):
    """Within 200 steps."""
    learner, init, step = jitted(row)
    batch = row.batch()
    is_tokens = batch["x"].ndim == 2 and batch["x"].dtype == jnp.int32
    if is_tokens and row.objective is not jdl.objectives.classify:
        tokens = batch["x"][:, :1] + jnp.arange(1, row.shape[0])[None]
        batch["x"] = batch["x"].at[:, 1:].set(tokens % ROWS)
    evaluate = jax.jit(
        lambda state: (
            learner.objective.loss(learner.eval_variables(state), batch, state.key, False).metrics
        )
    )
    state, losses = init(jax.random.key(0), batch), []
    while len(losses) < 200 and not (
        losses and len(losses) % 20 == 0 and is_learned(evaluate(state))
    ):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"].value()))
    assert losses[1] < losses[0]
    assert is_learned(evaluate(state))


def is_learned(metrics):
    if "error_rate" in metrics:
        return metrics["error_rate"].value() == 0
    return metrics.get("accuracy", metrics.get("exact_match")).value() == 1


@each("unsupervised", UNSUPERVISED)
def test_unsupervised_losses_fall(unsupervised):
    """Of a GAN, the discriminator's: the generator's may rise."""
    _, init, step = jitted(unsupervised)
    batch, losses = unsupervised.batch(), []
    state = init(jax.random.key(0), batch)
    for _ in range(100):
        state, metrics = step(state, batch)
        losses.append(float(metrics[loss_name(metrics)].value()))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def loss_name(metrics):
    return "discriminator_loss" if "discriminator_loss" in metrics else "loss"


@each("row", ALL)
def test_a_learner_from_the_same_arrays_takes_the_same_step(row):
    """To the bit: a learner that is built and traced again continues from a state's arrays.

    No state of Python's, and no key that is used up, decides what comes next.
    """
    _, state, _ = first_step(row)
    continued, _ = jitted(row)[2](state, row.batch())
    restored = jax.tree.map(through_numpy, state)
    again, _ = jax.jit(learner_of(row).step, compiler_options=IN_PIECES)(restored, row.batch())
    jax.tree.map(np.testing.assert_array_equal, continued.params, again.params)
    jax.tree.map(np.testing.assert_array_equal, continued.opt_state, again.opt_state)


def through_numpy(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(np.asarray(jax.random.key_data(leaf)))
    return jnp.asarray(np.asarray(leaf))


@each("row", ALL)
def test_seeds_under_vmap_on_padded_rows_are_as_one_alone_on_its_rows(row):
    """Masked rows leave loss, gradients and model state as they are without those rows.

    One program shows both, as two would take twice as long to compile. What a population does
    besides, `init` under vmap, is tested for some models in test_population.py.
    """
    learner, init, step = jitted(row)
    batch = row.batch()
    padded = {name: np.concatenate([column, column[:4]]) for name, column in host(batch).items()}
    padded["mask"][ROWS:] = False
    states = [init(jax.random.key(seed), batch) for seed in (0, 1)]

    @jax.jit
    def step_both(states, batch):
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        return jax.vmap(learner.step, (0, None))(both, batch)

    found = of_step(*step_both(states, padded))
    for n, state in enumerate(states):
        one = jax.tree.map(lambda leaf, n=n: leaf[n], found)
        expected = of_step(*step(state, batch))
        jax.tree.map(partial(np.testing.assert_allclose, atol=2e-6, rtol=1e-4), one, expected)


def of_step(state, metrics):
    """The loss, the model state and the gradients of a first step."""
    return host((metrics["loss"].value(), state.model_state, grads_of(state)))


def host(tree):
    """NumPy's arrays, which are cut and compared without a program to compile for each shape."""
    return jax.tree.map(np.array, tree)


def grads_of(state):
    """The gradients of the first step, of which Adam's first moment is a tenth."""
    return jax.tree.map(lambda mean: 10 * np.asarray(mean), optax.tree.get(state.opt_state, "mu"))


@each("row", TABLE)
def test_evaluation_treats_rows_alone(row):
    """In evaluation no row depends on another."""
    batch = row.batch()
    run = model_of(row)
    changed = host(batch)
    changed["x"][0] = 7
    np.testing.assert_array_equal(host(run(batch))[1:], host(run(changed))[1:])


@each("ragged", [row for row in TABLE if row.ragged])
def test_padding_steps_change_nothing(ragged):
    """Steps after a row's length: their content, to the bit, and their number, but for rounding."""
    batch, run = host(ragged.batch()), model_of(ragged)
    steps = ragged.shape[0]

    def mask(width):
        return np.arange(width)[None] < batch["length"][:, None]

    def without_padding(out):
        if isinstance(ragged.model, T5) or out.ndim == 2:
            return out
        return np.where(mask(out.shape[1])[:, :, None], host(out), 0)[:, :steps]

    first = without_padding(run(batch, mask(steps)))
    padding = ~mask(steps).reshape(ROWS, steps, *(1,) * (batch["x"].ndim - 2))
    changed = {**batch, "x": np.where(padding, np.asarray(9, batch["x"].dtype), batch["x"])}
    np.testing.assert_array_equal(first, without_padding(run(changed, mask(steps))))
    more = ((0, 0), (0, 3), *((0, 0),) * (batch["x"].ndim - 2))
    longer = without_padding(run({**batch, "x": np.pad(batch["x"], more)}, mask(steps + 3)))
    np.testing.assert_allclose(first, longer, atol=2e-6)


@each("causal", [row for row in TABLE if row.causal])
def test_causal_models_do_not_see_the_future(causal):
    """Changing a step changes no output before it, to the bit, and changes that at it."""
    batch, run = causal.batch(), model_of(causal)
    column, before = "y" if isinstance(causal.model, WITH_DECODER) else "x", host(run(batch))
    for t in range(1, batch[column].shape[1]):
        changed = host(batch)
        changed[column][:, t] += 1
        after = host(run(changed))
        np.testing.assert_array_equal(before[:, :t], after[:, :t])
        assert (before[:, t] != after[:, t]).any()


def test_remat_is_the_same_computation():
    """Equal but for rounding; that the gradient keeps less can be read in the program."""
    batch = {"x": jax.random.randint(jax.random.key(0), (4, 8), 0, 13)}
    grads, programs = [], []
    for remat in (False, True):
        config = TransformerConfig(width=8, depth=2, heads=2, remat=remat)
        objective = jdl.objectives.next_token(GPT(13, config))
        variables = jax.jit(objective.init)(jax.random.key(1), batch)
        gradient = jax.grad(
            lambda v, o=objective: o.loss(v, batch, jax.random.key(2), True).loss.value()
        )
        grads.append(jax.jit(gradient)(variables))
        programs.append(str(jax.make_jaxpr(gradient)(variables)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *grads)
    assert ["remat" in program or "checkpoint" in program for program in programs] == [False, True]


@pytest.mark.parametrize(
    "name", ["relu", "gelu", "silu", "swish", "elu", "selu", "leaky_relu", "tanh", "sigmoid"]
)
def test_activations_are_arguments(name):
    activation = getattr(nn, name)
    model = MLP(3, hidden=(8,), activation=activation)
    x = jax.random.normal(jax.random.key(0), (4, 5))
    variables = model.init(jax.random.key(1), x)
    dense = [variables["params"][f"Dense_{n}"] for n in range(2)]
    hidden = activation(x @ dense[0]["kernel"])
    np.testing.assert_allclose(
        model.apply(variables, x), hidden @ dense[1]["kernel"], rtol=1e-5, atol=1e-6
    )


def init_bidirectional_stateful():
    RNN(2, bidirectional=True, stateful=True).init(jax.random.key(0), jnp.ones((1, 2, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TransformerConfig(width=10, heads=4), "multiple of heads"),
        (lambda: TransformerConfig(heads=4, kv_heads=3), "kv_heads"),
        (lambda: TransformerConfig(remat="dots"), "jax.checkpoint_policies"),
        (lambda: TransformerConfig(biases=("keys",)), "biases may name"),
        (init_bidirectional_stateful, "stateful=False"),
    ],
)
def test_invalid_configurations_are_refused(make, message):
    with pytest.raises(jdl.Error, match=message):
        make()


@pytest.mark.parametrize(
    ("model", "shape", "parameters"),
    [
        (AlexNet(1000, large_images=True), (224, 224, 3), 61_100_840),
        (vgg(11, 1000), (224, 224, 3), 132_863_336),
        (vgg(13, 1000), (224, 224, 3), 133_047_848),
        (vgg(16, 1000), (224, 224, 3), 138_357_544),
        (vgg(19, 1000), (224, 224, 3), 143_667_240),
        (ResNet(10), (32, 32, 3), 11_173_962),
        (resnet(18, 1000), (224, 224, 3), 11_689_512),
        (resnet(34, 1000), (224, 224, 3), 21_797_672),
        (resnet(50, 1000), (224, 224, 3), 25_557_032),
        (efficientnet(0, 1000), (224, 224, 3), 5_288_548),
        (efficientnet(1, 1000), (240, 240, 3), 7_794_184),
        (efficientnet(3, 1000), (300, 300, 3), 12_233_232),
        (mobilenet_v3("large", 1000), (224, 224, 3), 5_483_032),
        (mobilenet_v3("small", 1000), (224, 224, 3), 2_542_856),
        (convnext("tiny", 1000), (224, 224, 3), 28_589_128),
    ],
)
def test_published_networks_have_their_published_parameters(model, shape, parameters):
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters


@pytest.mark.parametrize("published", [vgg, resnet, efficientnet, mobilenet_v3, convnext])
def test_unpublished_sizes_are_refused(published):
    with pytest.raises(jdl.Error, match="17 is none of these"):
        published(17, 10)


def test_a_fresh_residual_block_is_its_shortcut():
    x = jnp.arange(32.0).reshape(2, 2, 2, 4)
    block = Block(4, stride=1, bottleneck=False, activation=nn.relu)
    out, _ = jax.jit(block.init_with_output, static_argnums=2)(jax.random.key(0), x, True)
    np.testing.assert_array_equal(out, x)


def test_stochastic_depth_drops_the_residual_branch_of_whole_images():
    x = jax.random.normal(jax.random.key(0), (16, 4, 4, 4))

    @partial(jax.jit, static_argnums=0)
    def run(rate):
        block = InvertedResidual(4, 2, 3, 1, squeeze_ratio=0.0, drop_path=rate, activation=nn.relu)
        keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
        return block.init_with_output(keys, x, True)[0]

    dropped = (run(0.5) == x).all((1, 2, 3))
    assert 0 < dropped.sum() < 16
    np.testing.assert_allclose(run(0.5)[~dropped], (2 * run(0.0) - x)[~dropped], atol=1e-5)


@pytest.mark.parametrize(
    ("model", "shape"),
    [(MLP(3, hidden=(64,), dropout=0.5), (8,)), (CNN(3, dropout=0.5), (8, 8, 1))],
)
def test_dropout_depends_on_the_key_in_training_alone(model, shape):
    """In evaluation the model is the one without dropout, to the bit."""
    x = jnp.ones((2, *shape))
    variables = jax.jit(model.init)(jax.random.key(0), x)

    @jax.jit
    def train(seed):
        return model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)})

    without = model.clone(dropout=0.0).apply(variables, x)
    assert (train(1) != train(2)).any()
    assert (train(1) != without).any()
    np.testing.assert_array_equal(model.apply(variables, x), without)
