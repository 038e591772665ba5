"""Frozen batch normalization: bits of running statistics, and of outputs in training.

Seen to fail: without the interceptor of Linen's methods, without evaluation mode of NNX's layers,
with the inner of two wrappers alone, without the error for layers that cannot be told, and without
the names of networks.
"""

from dataclasses import replace

import flax.linen as nn
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import jdl
from jdl.models.cnn import CNN
from jdl.objectives import classify

BATCH = {"x": jax.random.normal(jax.random.key(9), (6, 4, 4, 2)), "y": jnp.arange(6) % 3}


class Subclass(nn.BatchNorm):
    def __call__(self, x, **options):
        return super().__call__(x, **options)


class Linen(nn.Module):
    """Flax's own layers, told what to do in every way that there is."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, name="field")(x)
        x = Subclass(name="argument")(x, use_running_average=not train)
        x = nn.remat(nn.BatchNorm, static_argnums=(2,))(name="place")(x, not train)
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))


class Small(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.outputs)(nn.BatchNorm(use_running_average=not train)(x))


class NNX(flax.nnx.Module):
    def __init__(self, rngs):
        self.layers = flax.nnx.List([flax.nnx.BatchNorm(2, rngs=rngs) for _ in range(2)])
        self.head = flax.nnx.Linear(32, 3, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.reshape(len(x), -1))


class Stubborn(NNX):
    def __call__(self, x):
        x = self.layers[0](x, use_running_average=False)
        return self.head(self.layers[1](x).reshape(len(x), -1))


class Deaf(nn.Module):
    """A layer that counts, and cannot be told that it is evaluated."""

    @nn.compact
    def __call__(self, x):
        count = self.variable("batch_stats", "count", jnp.zeros, ())
        if self.is_mutable_collection("batch_stats"):
            count.value += 1
        x = nn.Dense(4)(x.reshape(len(x), -1))
        return nn.Dense(3, name="head")(x)


MODELS = {
    "ours": CNN(3, blocks=((4, 1),), dense=(5,), batch_norm=True),
    "linen": Linen(),
    "nnx": jdl.nnx(lambda rngs: NNX(rngs)),
    "adapted": jdl.adapt_model(Linen(), inputs=("x",)),
}
ALL_BUT_HEAD = "^(?!.*head)"


def trained(objective, steps=2, batch=BATCH):
    """Variables whose statistics are not those of a batch, before and after training."""
    learner = jdl.descent(objective, optax.sgd(0.1))
    state = learner.init(jax.random.key(0), batch)
    draw = np.random.default_rng(0)
    statistics = jax.tree.map(
        lambda x: jnp.asarray(draw.uniform(0.5, 2, x.shape), x.dtype),
        state.model_state["batch_stats"],
    )
    state = replace(state, model_state={**state.model_state, "batch_stats": statistics})
    before, step = learner.eval_variables(state), jax.jit(learner.step)
    for _ in range(steps):
        state, _ = step(state, batch)
    return before, learner.eval_variables(state)


def losses(objective, variables):
    """The loss as it is trained, and as it is evaluated."""
    loss = jax.jit(objective.loss, static_argnums=3)
    key = jax.random.key(1)
    return [float(loss(variables, BATCH, key, train).loss.value()) for train in (True, False)]


def changed(before, after):
    """The statistics that are other bits."""
    pairs = (flatten_dict(v["batch_stats"], sep="/") for v in (before, after))
    old, new = pairs
    return {path for path, x in old.items() if (x != new[path]).any()}


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_part_computes_in_training_what_it_computes_in_evaluation(name):
    objective = classify(MODELS[name])
    frozen = jdl.freeze(objective, ALL_BUT_HEAD)
    before, after = trained(frozen)
    assert not changed(before, after)
    in_training, in_evaluation = losses(frozen, after)
    assert in_training == in_evaluation
    updated = jdl.freeze(objective, ALL_BUT_HEAD, hold_statistics=False)
    in_training, in_evaluation = losses(updated, after)
    assert in_training != in_evaluation
    assert len(changed(*trained(updated, 1))) == len(jax.tree.leaves(before["batch_stats"]))


def test_layers_that_do_not_match_go_on():
    assert changed(*trained(jdl.freeze(classify(Linen()), "field|place"))) == {
        "argument/mean",
        "argument/var",
    }
    assert changed(*trained(jdl.freeze(classify(MODELS["nnx"]), "layers/0"))) == {
        "layers/1/mean",
        "layers/1/var",
    }


@pytest.mark.slow
def test_adapters_are_trained_on_the_statistics_that_they_are_loaded_with():
    objective, name = classify(MODELS["ours"]), "BatchNorm_0"
    assert not changed(*trained(jdl.lora(objective, "Conv", train="head/")))
    both = {f"{name}/mean", f"{name}/var"}
    assert changed(*trained(jdl.lora(objective, "Conv", train=name))) == both
    assert changed(*trained(jdl.lora(objective, "Conv", hold_statistics=False))) == both
    frozen = jdl.freeze(classify(Linen()), "field")
    assert changed(*trained(jdl.lora(frozen, "head", train="place"))) == {"place/mean", "place/var"}


@pytest.mark.parametrize("networks", [("model", "y_model"), ("generator", "discriminator")])
def test_those_of_one_of_several_networks_by_its_name(networks):
    """One is frozen, and the other one goes on: of two towers of each kind, and of a GAN."""
    objective = jdl.objectives.adversarial(Small(5), Small(1), 4)
    batch = {"x": BATCH["x"].reshape(6, -1)[:, :5]}
    if "model" in networks:
        objective = jdl.objectives.contrastive(MODELS["ours"], MODELS["nnx"])
        batch = {"x": BATCH["x"], "y": BATCH["x"][::-1]}
    for frozen, other in (networks, networks[::-1]):
        paths = changed(*trained(jdl.freeze(objective, f"^{frozen}/"), batch=batch))
        assert paths
        assert all(path.startswith(f"{other}/") for path in paths)


@pytest.mark.parametrize("model", [jdl.nnx(lambda rngs: Stubborn(rngs)), Deaf()])
def test_layers_that_cannot_be_told_are_refused(model):
    with pytest.raises(jdl.Error, match=r"cannot be kept in training.*hold_statistics=False"):
        trained(jdl.freeze(classify(model), ALL_BUT_HEAD))
