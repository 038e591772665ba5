"""Load balancing of a mixture of experts without an auxiliary loss: what moves the biases, and how.

Seen to fail: with the bias in the weights too, with padding rows counted, and with the sign turned;
with biases cast to half precision; with loads in the norm; with the auxiliary loss by default; and
what is refused, accepted; with an average of all parameters (a raw error).
"""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.learners import mixed_precision
from jdl.learners.schedule_free import _find_state
from jdl.models.gpt import GPT
from jdl.models.mixture_of_experts import MixtureOfExperts
from jdl.models.transformer import FeedForward, TransformerConfig
from jdl.models.vit import ViT
from jdl.objectives import classify, next_token
from jdl.optim import balance_experts

KEY, SIZE, RATE = jax.random.key(0), 13, 0.01
CONFIG = TransformerConfig(8, 1, 2, mlp_width=8, max_length=8, experts=3, balance_bias=True)
TOKENS = {
    "x": jax.random.randint(jax.random.key(3), (8, 7), 0, SIZE),
    "mask": jnp.arange(8) < 5,
}
OBJECTIVE = next_token(GPT(SIZE, CONFIG))


def layer(**form):
    """A layer's parameters, its inputs, and what it gives with these biases."""
    module = MixtureOfExperts(replace(CONFIG, **form), FeedForward)
    x = jax.random.normal(jax.random.key(1), (2, 6, 8))
    params = module.init(jax.random.key(0), x, None, False)["params"]

    def apply(bias):
        given = {**params, "balance_bias": jnp.asarray(bias)}
        return module.apply({"params": given}, x, None, False)

    return params, x, apply


@pytest.mark.slow
def test_the_bias_chooses_and_does_not_weigh():
    params, x, apply = layer(experts_per_token=1)
    assert params["balance_bias"].tolist() == [0, 0, 0]
    probability = jax.nn.softmax(x @ params["router"]["kernel"])[..., 1:2]
    alone = {"params": jax.tree.map(lambda p: p[1], params["experts"])}
    expected = probability * FeedForward(CONFIG).apply(alone, x)
    np.testing.assert_allclose(apply([0.0, 2.0, 0.0]), expected, atol=1e-6)
    *_, apply = layer(experts_per_token=3)  # all are chosen, whatever the bias
    np.testing.assert_allclose(apply([0.0, 2.0, 0.0]), apply([0.0, 0.0, 0.0]), atol=1e-6)


def stepped(batch, **options):
    """The parameters before and after a step."""
    optimizer = balance_experts(jdl.optim.adamw(1e-2), RATE)
    learner = jdl.descent(OBJECTIVE, optimizer, **options)
    state = jax.jit(learner.init)(KEY, batch)
    return state.params, jax.jit(learner.step)(state, batch)[0].params


def bias_of(params):
    return params["stack"]["block_0"]["feed_forward"]["balance_bias"]


@pytest.mark.slow
def test_biases_move_by_the_sign_of_the_load_of_real_rows():
    """By a loop over tokens; in micro-batches to the bit; all else as without them."""
    before, after = stepped(TOKENS)
    inputs = {}

    def note(call, args, kwargs, context):
        if isinstance(context.module, MixtureOfExperts) and context.method_name == "__call__":
            inputs["x"] = args[0]
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        OBJECTIVE.model.apply({"params": before}, TOKENS["x"][:, :-1])
    scores = inputs["x"] @ before["stack"]["block_0"]["feed_forward"]["router"]["kernel"]
    load = np.zeros(3)
    for row in range(5):
        for step in range(6):
            load[np.argsort(-np.asarray(scores[row, step]))[:2]] += 1
    assert len(set(np.sign(load.mean() - load))) > 1
    expected = (RATE * np.sign(load.mean() - load)).astype(np.float32)
    np.testing.assert_array_equal(bias_of(after), expected)
    np.testing.assert_array_equal(bias_of(stepped(TOKENS, micro_batches=4)[1]), expected)

    plain = next_token(GPT(SIZE, replace(CONFIG, balance_bias=False)), balance=0)
    learner = jdl.descent(plain, jdl.optim.adamw(1e-2))
    state, _ = jax.jit(learner.step)(learner.init(KEY, TOKENS), TOKENS)
    rest = jax.tree.map(lambda leaf: leaf, after)
    del rest["stack"]["block_0"]["feed_forward"]["balance_bias"]
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), rest, state.params)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_loads_are_exact_in_half_precision_and_no_part_of_the_norm(precision):
    """87 equal rows choose experts 0 and 1: 522 has 9 bits, and 128 * 1044 is above 65504."""
    batch = {"x": jnp.tile(TOKENS["x"][:1], (87, 1))}
    learner = jdl.descent(OBJECTIVE, balance_experts(optax.sgd(1e-2)))
    learner = mixed_precision(learner, precision)
    state = jax.jit(learner.init)(KEY, batch)
    state.params["stack"]["block_0"]["feed_forward"]["balance_bias"] = jnp.asarray([9.0, 9.0, -9.0])
    if precision == "float16":
        state.extra["loss_scale"]["scale"] = jnp.float32(128)
    gradients = jax.jit(learner.grads)(state, batch, KEY)
    assert bias_of(gradients.grads).tolist() == [522, 522, -1044]
    if precision == "float16":
        return  # this scale is too large for the gradients of the embeddings
    _, metrics = jax.jit(learner.apply_gradients)(state, gradients)
    of_loss = jax.tree.map(jnp.copy, gradients.grads)
    del of_loss["stack"]["block_0"]["feed_forward"]["balance_bias"]
    expected = optax.tree.norm(of_loss) / gradients.output.loss.count
    np.testing.assert_allclose(metrics["grad_norm"].value(), expected, rtol=1e-5)


def test_the_auxiliary_loss_is_left_out_unless_it_is_asked_for():
    variables = OBJECTIVE.init(KEY, TOKENS)

    @jax.jit
    def losses():
        objectives = [next_token(OBJECTIVE.model, balance=weight) for weight in (None, 0.0, 0.01)]
        return [o.loss(variables, TOKENS, KEY, True).loss.value() for o in objectives]

    default, without, both = losses()
    assert default == without < both


@pytest.mark.slow
def test_experts_that_none_chose_come_to_be_chosen():
    """The loads' errors are the gradients of the biases, whose largest falls to a third."""
    learner = jdl.descent(OBJECTIVE, balance_experts(optax.sgd(0.0), 0.05))
    state, step = jax.jit(learner.init)(KEY, TOKENS), jax.jit(learner.step)
    state.params["stack"]["block_0"]["feed_forward"]["balance_bias"] = jnp.asarray([0.5, 0.5, -0.5])
    errors, grads_of = [], jax.jit(learner.grads)
    for _ in range(30):
        grads = grads_of(state, TOKENS, KEY).grads
        errors.append(float(jnp.abs(bias_of(grads)).max()))
        state, _ = step(state, TOKENS)
    assert errors[-1] < errors[0] / 3


@pytest.mark.slow
def test_a_schedule_free_optimizer_within_leaves_the_biases_out_of_its_average():
    optimizer = balance_experts(optax.contrib.schedule_free_adamw(1e-2, warmup_steps=2), RATE)
    learner = jdl.schedule_free(jdl.descent(OBJECTIVE, optimizer))
    state, step = jax.jit(learner.init)(KEY, TOKENS), jax.jit(learner.step)
    for _ in range(3):
        state, _ = step(state, TOKENS)
    found = learner.eval_variables(state)["params"]
    assert bias_of(found).any()
    np.testing.assert_array_equal(bias_of(found), bias_of(state.params))
    inner = _find_state(state.opt_state)
    rest = inner._replace(z=inner.z["tokens"])
    expected = optax.contrib.schedule_free_eval_params(rest, state.params["tokens"])
    jax.tree.map(np.testing.assert_array_equal, found["tokens"], expected)
    assert (
        jax.tree.leaves(expected)[0].tolist() != jax.tree.leaves(state.params["tokens"])[0].tolist()
    )


def test_an_optimizer_that_would_train_the_biases_is_refused():
    init = jdl.descent(OBJECTIVE, jdl.optim.adamw(1e-2)).init
    with pytest.raises(jdl.Error, match=r"balance_bias is moved by the loads .*\.balance_experts"):
        jax.eval_shape(init, KEY, TOKENS)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), balance_experts(optax.sgd(1e-2)))
    with pytest.raises(jdl.Error, match="wrap the whole optimizer"):
        jax.eval_shape(jdl.descent(OBJECTIVE, clipped).init, KEY, TOKENS)
    jax.eval_shape(jdl.descent(OBJECTIVE, balance_experts(optax.sgd(1e-2))).init, KEY, TOKENS)
    plain = next_token(GPT(SIZE, replace(CONFIG, balance_bias=False)))
    with pytest.raises(jdl.Error, match="there is none to train"):
        jax.eval_shape(jdl.descent(plain, balance_experts(optax.sgd(1e-2))).init, KEY, TOKENS)
    with pytest.raises(jdl.Error, match=r"rate of balance_experts must be 0 or more, .* not -1"):
        balance_experts(optax.sgd(1e-2), -1)
    with pytest.raises(jdl.Error, match="give experts too"):
        TransformerConfig(balance_bias=True)


@pytest.mark.slow
def test_an_objective_that_reads_no_loads_is_refused():
    objective = classify(ViT(10, config=CONFIG))
    batch = {"x": jnp.zeros((2, 8, 8, 1)), "y": jnp.zeros(2, int)}
    learner = jdl.descent(objective, balance_experts(optax.sgd(1e-2)))
    state = jax.eval_shape(learner.init, KEY, batch)
    with pytest.raises(jdl.Error, match="leaves them at 0: leave out balance_bias"):
        jax.eval_shape(learner.step, state, batch)
