"""Deep stacks: scanned, they compute what they compute unrolled, with the same dropout.

Seen to fail: with the key of the first layer in all, with sown values that are lost, with layers
that stay in the loop where they are recorded, and with parameters gathered before the loop.
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
from jdl.inspect.hlo import read
from jdl.layers import apply_layers
from jdl.models.dit import DiT
from jdl.models.gpt import GPT
from jdl.models.t5 import T5
from jdl.models.transformer import TransformerConfig
from jdl.models.vit import ViT
from jdl.objectives.hints import record_features
from jdl.parallel import abstract_state, build_mesh, shard_learner
from jdl.plan.collectives import collectives

SIZES = TransformerConfig(width=8, depth=3, heads=2, max_length=16, dropout=0.3)
TOKENS = jax.random.randint(jax.random.key(0), (4, 8), 0, 13)
IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
TEXT = {"x": TOKENS, "y": jnp.arange(4), "mask": jnp.arange(4) < 3}
PICTURES = {"x": IMAGES, "y": jnp.arange(4)}
DOCUMENTS = {"x": TOKENS, "segment": jnp.cumsum(TOKENS == 3, 1)}
classify, next_token = jdl.objectives.classify, jdl.objectives.next_token
RELATIVE = {"depth": 2, "rotary": False, "relative_buckets": 8}
BOUND = 1e-6  # of a leaf's largest gradient: sums in another order; 6.6e-7 was measured
CASES = {
    "gpt": (lambda c: next_token(GPT(13, c), chunk=4), DOCUMENTS, {"window": 3}),
    "gpt, experts": (lambda c: next_token(GPT(13, c)), TEXT, {"experts": 4}),
    "vit": (lambda c: classify(ViT(5, 4, c)), PICTURES, {"layer_scale": 0.1, "pre_norm": False}),
    "t5": (lambda c: jdl.objectives.seq2seq(T5(13, c), eos_id=0), {**TEXT, "y": TOKENS}, RELATIVE),
    "dit": (lambda c: jdl.objectives.diffusion(DiT(4, c)), {"x": IMAGES}, {"remat": True}),
}


def loss_and_gradient(make, config, batch, dtype=jnp.float32):
    """The loss, the metrics and the gradient of fresh parameters, in training."""
    objective = make(config)
    variables = jax.jit(objective.init)(jax.random.key(1), batch)
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)

    def loss(variables):
        output = objective.loss(variables, batch, jax.random.key(2), True)
        return output.loss.value(), output

    traced = jax.jit(jax.value_and_grad(loss, has_aux=True)).trace(variables)
    return traced.lower().compile()(variables), str(traced.jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_scan_over_layers_computes_what_unrolled_layers_compute(name):
    """The loss to the bit."""
    make, batch, fields = CASES[name]
    config = replace(SIZES, **fields)
    (output, gradient), program = loss_and_gradient(make, config, batch)
    (found, scanned), loop = loss_and_gradient(make, replace(config, scan=True), batch)
    length = f"length={config.depth}"
    assert (length in loop, length in program) == (True, False)
    jax.tree.map(np.testing.assert_array_equal, found, output)
    for one, other in zip(*map(jax.tree.leaves, (scanned, gradient)), strict=True):
        bound = BOUND * float(jnp.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=bound)


@pytest.mark.slow
def test_in_bfloat16_gradients_differ_by_its_rounding():
    """Here by 0.05 of a leaf's largest, and losses by 7e-5."""
    make, batch, fields = CASES["gpt"]
    both = [
        loss_and_gradient(make, replace(SIZES, scan=scan, **fields), batch, jnp.bfloat16)[0]
        for scan in (False, True)
    ]
    (loss, _), other = both[0][0], both[1][0][0]
    assert abs(other - loss) < 3e-4 * loss
    for a, b in zip(*(map(jnp.float32, jax.tree.leaves(each[1])) for each in both), strict=True):
        assert jnp.abs(a - b).max() < 0.1 * jnp.abs(a).max()


@pytest.mark.slow
def test_layers_are_unrolled_where_a_loop_would_hide_them():
    """For a KV cache, and to whoever records features."""
    features = {}
    for scan in (False, True):
        objective = next_token(GPT(13, replace(SIZES, scan=scan)))
        variables = objective.init(jax.random.key(1), TEXT)
        with record_features() as features[scan]:
            logits, _ = objective.outputs(variables, TEXT, jax.random.key(2), True)
        cached, _ = objective.next_logits(variables, {}, TOKENS[:, :-1])
        assert logits.shape == cached.shape
    assert features[True].keys() == features[False].keys()
    np.testing.assert_array_equal(*(f["stack/block_2/attention/query"] for f in features.values()))


@pytest.mark.slow
def test_fully_sharded_layers_are_gathered_within_the_loop():
    """None is whole before."""
    batch = {"x": jax.ShapeDtypeStruct((4, 9), jnp.int32)}
    sizes = replace(SIZES, width=16, dropout=0.0, scan=True)
    learner = jdl.descent(next_token(GPT(13, sizes)), optax.sgd(1e-3))
    learner = shard_learner(learner, build_mesh("fsdp=4"))
    state = jax.eval_shape(learner.init, jax.eval_shape(jax.random.key, 0), batch)
    layers = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params["stack"]))
    step = jax.jit(learner.step).lower(abstract_state(learner.mesh, state), batch)
    found = collectives(read(step.compile().as_text()))
    gathers = {each.loop: each.nbytes for each in found if each.kind == "all-gather"}
    assert gathers[True] > layers
    assert gathers.get(False, 0) < 0.1 * layers


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + jax.random.normal(self.make_rng("noise"), x.shape)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 4, "global_every": 2}, "all alike"),
        ({"attention_every": 2}, "all alike"),
    ],
)
def test_blocks_that_differ_are_refused(fields, message):
    with pytest.raises(jdl.Error, match=message):
        replace(SIZES, scan=True, **fields)


@pytest.mark.slow
def test_random_numbers_that_would_be_the_same_in_all_layers_are_refused():
    model = GPT(13, replace(SIZES, scan=True, norm=partial(Noisy)))
    streams = {name: jax.random.key(n) for n, name in enumerate(("params", "dropout", "noise"))}
    variables = model.init(streams, TOKENS)
    with pytest.raises(jdl.Error, match=r"noise.*make_key"):
        model.apply(variables, TOKENS, rngs=streams)


class Sows(nn.Module):
    """A layer that sows, or changes what it gets."""

    what: str

    @nn.compact
    def __call__(self, x):
        if self.what == "losses":
            self.sow("losses", "size", x.sum())
        if self.what == "reduced":
            self.sow("intermediates", "size", x.sum(), init_fn=lambda: 0.0, reduce_fn=jnp.add)
        kernel = self.param("kernel", nn.initializers.ones, (3,))
        return x.astype(jnp.bfloat16) if self.what == "type" else x * kernel[None]


class Stack(nn.Module):
    """A stack of such layers; in a stack of stacks, where `inner`."""

    what: str
    inner: bool = False

    @nn.compact
    def __call__(self, x):
        layer, fields = Sows, {"what": self.what}
        if self.inner:
            layer, fields = Stack, {"what": self.what}
        return apply_layers(self, layer, [fields] * 2, x, scan=True)


@pytest.mark.parametrize(
    ("what", "message"),
    [("losses", "changes 'losses'"), ("reduced", "reduce_fn"), ("type", "bfloat16")],
)
def test_what_a_scan_would_lose_is_refused(what, message):
    model, x = Stack(what), jnp.ones((2, 3))
    params = {"params": model.init(jax.random.key(0), x)["params"]}
    with pytest.raises(jdl.Error, match=message):
        model.apply(params, x, mutable=["losses", "intermediates"])


def test_a_stack_within_a_layer_of_a_scan_is_unrolled():
    model, x = Stack("", inner=True), jnp.ones((2, 3))
    np.testing.assert_array_equal(model.apply(model.init(jax.random.key(0), x), x), x)
