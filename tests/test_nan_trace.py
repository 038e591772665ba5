"""The NaN trace names the layer, the loss or the gradient; such a step can be skipped.

Seen to fail: the trace of a loss, without its check (it called the step finite); advice of learning
rates for a row that an embedding has not, and one below its first not named; that of an
environment, without the checks in it and without that of the replay buffer; layers of NNX, without
checks; a class of them that kept its checks; one that calls the class above, seen twice; and a
layer blamed for what it was given.
"""

import json
from dataclasses import replace

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import kitchen_sink
import numpy as np
import optax
import pytest
from flax import nnx
from harness import digest, lines, stopped_at, train
from reinforcement_harness import corridor

import jdl
from jdl.layers.nnx_calls import intercept_calls, intercepted
from jdl.learners import Wrapper, trace_once
from jdl.models.actor_critic import ActorCritic
from jdl.models.mlp import MLP
from jdl.models.rnn import LSTM, RNN
from jdl.objectives import classify
from jdl.train.nan_trace import OF_INPUT, OF_PADDING, OUT_OF_RANGE, nan_trace
from jdl.train.summary import summarize


class Logarithm(nn.Module):
    """Not finite where its input is 0 or less."""

    @nn.compact
    def __call__(self, x):
        return jnp.log(x)


class Root(nn.Module):
    """Finite at 0, where its gradient is not."""

    @nn.compact
    def __call__(self, x):
        return jnp.sqrt(jnp.square(x))


class Stack(nn.Module):
    layers: tuple[nn.Module, ...]

    @nn.compact
    def __call__(self, x, train=False, lengths=None, mask=None):
        for layer in self.layers:
            x = layer(x)
        return nn.Dense(5, name="last")(x)


class Gated(nn.Module):
    """A cell of its own, in a scan, that goes bad at its third step."""

    @nn.compact
    def __call__(self, x, train=False, lengths=None, mask=None):
        def cell(cell, model_state, x):
            y = nn.Dense(4, name="gate")(x)
            return model_state + 1, Logarithm(name="log")(2.5 - model_state + 0 * y)

        scan = nn.scan(
            cell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        _, y = scan(self, jnp.zeros(()), x)
        return nn.Dense(5)(y[:, -1])


BATCH = {
    "x": jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32),
    "y": jnp.arange(6) % 5,
}


class WithoutGrads(Wrapper):
    """A learner that only steps, as those of reinforcement learning do."""

    has_grads = False


def traced_before(learner):
    """As a run has its learner, whose step was traced for the check before the run."""
    once = trace_once(WithoutGrads(learner))
    jax.eval_shape(lambda batch: once.step(once.init(jax.random.key(0), batch), batch), BATCH)
    return once


def traced(model, batch=BATCH, optimizer=optax.sgd(0.1), **around):
    learner = jdl.descent(classify(model), optimizer)
    learner = around.get("around", lambda learner: learner)(learner)
    return nan_trace(learner, learner.init(jax.random.key(0), batch), batch)


@pytest.mark.parametrize(
    "around",
    [lambda x: x, jdl.ema, WithoutGrads, traced_before],
    ids=["plain", "ema", "without grads", "traced before"],
)
def test_the_first_layer_whose_output_is_bad_is_named(around):
    model = Stack((nn.Dense(8), Logarithm(), nn.LayerNorm()))
    assert (
        traced(model, around=around)
        == "The output of layers_1 (Logarithm) is the first that is not finite"
    )


class LogBefore(nn.Module):
    """A layer behind a logarithm that is in no layer."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(5, name="last")(nn.Dense(3)(jnp.log(x)))


def test_an_input_that_a_layer_did_not_spoil_is_told():
    zeros = {**BATCH, "x": jnp.zeros((6, 4))}
    told = "The output of Dense_0 (Dense) is the first that is not finite"
    assert traced(LogBefore(), zeros) == told + OF_INPUT
    log = Stack((nn.Dense(8), Logarithm()))  # a layer that does spoil it is told alone
    assert OF_INPUT not in traced(log)


def test_within_a_scan_and_behind_remat():
    sequence = {"x": BATCH["x"][:, None].repeat(5, 1), "y": BATCH["y"]}
    looked_into = tuple(map(int, flax.__version__.split(".")[:3])) < (
        0,
        12,
        12,
    )  # later scans take no side effects
    expected = (
        "The output of log (Logarithm) is the first"
        if looked_into
        else "cannot be traced: broadcasted variable"
    )
    assert expected in traced(Gated(), sequence)
    assert "The output of layers_0 (Logarithm)" in traced(Stack((nn.remat(Logarithm)(),)), BATCH)


def test_a_gradient_that_goes_bad_on_its_way_back():
    zeros = {**BATCH, "x": jnp.zeros((6, 4))}
    model = Stack((nn.Dense(8), Root(), nn.Dense(3)))
    message = traced(model, zeros)
    assert message.startswith(
        "The outputs of all layers and the loss are finite, and the gradient of "
    )
    assert "layers_0/bias is not" in message
    assert message.endswith("in the backward pass first that of layers_0 (Dense)")


def test_a_bad_batch_names_its_column_and_examples():
    x = BATCH["x"].at[3, 1].set(jnp.nan).at[5].set(jnp.inf)
    message = traced(Stack((nn.Dense(8),)), {**BATCH, "x": x, "id": 10 * jnp.arange(6)})
    assert message == "Its batch is not finite: column x, of the examples 30, 50"


@pytest.mark.parametrize("around", [lambda x: x, WithoutGrads], ids=["plain", "without grads"])
def test_a_loss_of_finite_outputs_is_named(around):
    """Labels without an output: the loss alone is not finite."""
    sixth = {**BATCH, "y": jnp.arange(6)}
    message = traced(Stack((nn.Dense(8),)), sixth, around=around)
    assert message.startswith(
        "The outputs of all layers are finite, and the loss is the first that is not"
    )


class ByLabel(nn.Module):
    """A table of ten rows, and labels x."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(5)(nn.Embed(10, 4, name="table")(x))


class ByLabelNNX(nnx.Module):
    """The same in NNX."""

    def __init__(self, rngs):
        self.table, self.head = nnx.Embed(10, 4, rngs=rngs), nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, x):
        return self.head(self.table(inputs=x))


class RootNNX(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 5, rngs=rngs), Shifted()])

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Shifted(nnx.Module):
    """Not finite where its inputs are below 9."""

    def __call__(self, x):
        return jnp.log(x - 9)


def test_the_layer_of_an_nnx_model_is_named_and_its_class_is_as_before():
    call = nnx.Linear.__call__
    assert "output of layers/1 (Shifted) is the first" in traced(jdl.nnx(RootNNX), BATCH)
    assert nnx.Linear.__call__ is call


class Doubled(nnx.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


def test_a_layer_that_calls_the_class_above_is_one_call():
    layer, calls = nnx.Sequential(Doubled(4, 4, rngs=nnx.Rngs(0)), nnx.relu), []

    def seen(path, layer, inputs, output):
        calls.append((path, type(layer)))
        return output

    with intercept_calls(seen), intercepted(layer):
        layer(layer(BATCH["x"]))
    assert calls == [("layers/0", Doubled), ("", nnx.Sequential)] * 2


@pytest.mark.parametrize("model", [ByLabel(), jdl.nnx(ByLabelNNX)], ids=["linen", "nnx"])
@pytest.mark.parametrize(("row", "told"), [(10, True), (-11, True), (9, False), (-1, False)])
def test_a_row_that_an_embedding_has_not_is_named(model, row, told):
    message = traced(model, {"x": jnp.asarray([0, 3, row, 1, 2, 9]), "y": BATCH["y"]})
    assert (
        f"The output of table (Embed) is the first that is not finite{OUT_OF_RANGE}, {row}, of an "
        "embedding of 10 rows, 0 to 9" in message
    ) == told


def test_the_advice_for_it_is_of_no_learning_rate(tmp_path):
    x = np.arange(11, dtype=np.int32)
    data = jdl.data.arrays(x=x, y=x % 5)
    learner = jdl.descent(classify(ByLabel()), optax.sgd(0.1))
    c, test = jdl.Config(name="table", steps=2), data.batches(11)
    run = jdl.Run(c, learner, data.shuffled(11, 0), test=test)
    with pytest.raises(jdl.Error, match="not finite: it was asked for a row") as stopped:
        jdl.fit(run, jdl.Options(root=tmp_path, quiet=True))
    assert "learning rate" not in str(stopped.value)


def nan_reward():
    def step(state, action, key):
        state, reward, terminated = corridor().step(state, action, key)
        return state, jnp.where(state > 0, jnp.nan, reward), terminated

    return replace(corridor(), step=step)


def nan_obs():
    def observe(state):
        return jnp.where(state > 0, jnp.nan, state)[None]

    return replace(corridor(), observe=observe)


def ppo(environment):
    return jdl.ppo(environment, ActorCritic(2), optax.sgd(0.1), num_steps=8)


def dqn(environment):
    sizes = {"num_steps": 4, "buffer_size": 64, "batch_size": 8, "learning_starts": 1}
    return jdl.dqn(environment, MLP(2), optax.sgd(0.1), lambda step: 1.0, **sizes)


@pytest.mark.parametrize(
    ("make", "environment", "message"),
    [
        (ppo, nan_reward, "The environment's reward is the first that is not finite"),
        pytest.param(
            lambda e: jdl.population(jdl.ema(ppo(e)), (0, 1)),
            nan_obs,
            "The environment's observation is",
            marks=pytest.mark.slow,
        ),
        (
            lambda e: jdl.descent(jdl.objectives.reinforce(e, ActorCritic(2)), optax.sgd(0.1)),
            nan_reward,
            "The environment's reward is",
        ),
        pytest.param(ppo, corridor, "on one device, the step is finite", marks=pytest.mark.slow),
    ],
    ids=["ppo", "population", "reinforce", "finite"],
)
def test_an_environment_whose_numbers_are_bad_is_named(make, environment, message):
    learner, batch = make(environment()), jdl.data.episodes(4)[0]
    assert message in nan_trace(learner, learner.init(jax.random.key(0), batch), batch)


def test_a_replay_buffer_that_was_filled_with_bad_rewards_is_named():
    learner, batch = dqn(nan_reward()), jdl.data.episodes(4)[0]
    state, _ = learner.step(learner.init(jax.random.key(0), batch), batch)
    message = nan_trace(learner, state, batch)
    assert message.startswith("The reward in the replay buffer, of earlier steps, is not finite")


def test_an_update_that_goes_bad():
    message = traced(Stack((nn.Dense(8),)), optimizer=optax.sgd(1e39))
    assert message == "Outputs and gradients are finite, and after the update last/bias is not"


@pytest.mark.slow
def test_a_step_that_is_good_when_seen_again_is_said_to_be():
    assert traced(RNN(5, (8,), LSTM), {**BATCH, "x": BATCH["x"][:, None]}).endswith(
        "on one device, the step is finite"
    )


@pytest.mark.slow
def test_the_run_that_stops_says_where(tmp_path):
    with pytest.raises(
        jdl.Error, match=r"param_norm of step 13 is inf.*are finite, and after the update .* is too"
    ):
        train(tmp_path, explode_at=12, save_every=5, eval_every=0)


@pytest.mark.slow
def test_skipped_steps_change_nothing_are_counted_and_resume_to_the_same_bits(tmp_path):
    run = kitchen_sink.run(kitchen_sink.Config(name="kitchen_sink"))
    poisoned = int(run.train[11]["id"][0])
    bad = [i + 1 for i in range(30) if poisoned in np.asarray(run.train[i]["id"])]
    fields = {
        "steps": 30,
        "poisoned": poisoned,
        "on_nonfinite": "skip",
        "eval_every": 0,
        "save_every": 7,
    }
    whole = train(tmp_path / "whole", **fields)
    logged = {
        line["step"]: line for line in map(json.loads, lines(whole)) if line["split"] == "train"
    }
    assert [step for step, line in logged.items() if line["skipped"]] == bad
    assert bad[1] == 12
    assert logged[12]["loss"] is None
    assert logged[30]["loss"] is not None
    stopped_at(14, tmp_path / "stopped", **fields)
    again = train(tmp_path / "stopped", **fields)
    assert digest(again) == digest(whole)
    assert lines(again) == lines(whole)
    assert f"{len(bad)} steps were skipped" in summarize(whole)


def test_outputs_of_other_first_axes_are_traced_too():
    """A codebook beside rows. Seen to fail: with the rows of both in one array, by a raw error."""

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.log(-x), jnp.log(-x[:2])

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            rows, codes = Two()(x)
            return nn.Dense(3)(rows) + codes.sum()

    assert "output of Two_0" in traced(Outer(), {**BATCH, "x": jnp.abs(BATCH["x"]) + 1})


def test_padding_rows_that_alone_are_not_finite_are_told():
    """Seen to fail with the layer alone named; and with a real row that is not finite left out."""
    model, x = Stack((Logarithm(),)), jnp.abs(BATCH["x"]) + 1
    padded = {**BATCH, "x": x.at[4:].set(-1), "mask": jnp.arange(6) < 4}
    assert OF_PADDING in traced(model, padded)
    assert OF_PADDING not in traced(model, {**padded, "x": padded["x"].at[0].set(-1)})
