"""Every model exports with a symbolic batch, and sequences with symbolic lengths (`jax.export`)."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_rows import MAX_LENGTH, ROWS, SIZE, Row, by_tier
from model_table import TABLE
from unsupervised_table import UNSUPERVISED
from xla_flags import IN_PIECES, WITH_NEW_EMITTERS

import jdl
from jdl.models.actor_critic import ActorCritic
from jdl.models.bert import BERT
from jdl.models.dcgan import Discriminator, SpectralNormDiscriminator
from jdl.models.gpt import GPT
from jdl.models.t5 import T5
from jdl.models.transformer import TransformerConfig
from jdl.models.vgg import vgg

LEARNED_POSITIONS = TransformerConfig(
    width=8, depth=1, heads=2, max_length=MAX_LENGTH, rotary=False
)
RELATIVE_POSITIONS = replace(LEARNED_POSITIONS, relative_buckets=4, relative_distance=6)
MORE = [
    Row("discriminator", Discriminator((4, 8)), (8, 8, 1), 0),
    Row("discriminator-spectral", SpectralNormDiscriminator((4, 8)), (8, 8, 1), 0),
    Row("actor-critic", ActorCritic(2, log_stds=2), (4, 2), 0),
    Row("vgg", vgg(11, 5, width=2, dense=(8,)), (32, 32, 3), 0),
    Row("bert-tokens", BERT(SIZE, LEARNED_POSITIONS), (6,), 0, ragged=True),
    Row(
        "t5-learned-positions",
        T5(SIZE, LEARNED_POSITIONS),
        (6,),
        0,
        objective=None,
        ragged=True,
    ),
    Row(
        "t5-relative-positions",
        T5(SIZE, RELATIVE_POSITIONS),
        (6,),
        0,
        objective=None,
        ragged=True,
    ),
]

# By the older emitter of fusions, with which the tests compile.
ONE_ULP_APART = ("efficientnet", "sound-cnn")


@pytest.mark.parametrize("row", by_tier(TABLE + UNSUPERVISED + MORE, "nightly"))
def test_exports_with_symbolic_shapes_and_gives_the_bits_of_jit(row):
    """Called with another batch and other lengths than those of the table."""
    inputs = row.inputs(row.batch())
    mask = jnp.arange(row.shape[0])[None] < 4 - (jnp.arange(ROWS) % 3)[:, None]
    if row.ragged:
        inputs = (*inputs, mask)
    variables = random_variables(row, inputs)

    options = IN_PIECES | (WITH_NEW_EMITTERS if row.name in ONE_ULP_APART else {})

    @partial(jax.jit, compiler_options=options)
    def apply(variables, *inputs):
        x, mask = (inputs[:-1], inputs[-1]) if row.ragged else (inputs, None)
        return row.apply(variables, *x, mask=mask)

    exported = jax.export.export(apply, platforms=["cpu"])(variables, *symbolic(row, inputs))
    smaller = [array[:5, :-1] if row.is_sequence else array[:5] for array in inputs]
    call = jax.jit(exported.call, compiler_options=options)
    actual, expected = call(variables, *smaller), apply(variables, *smaller)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    assert all(np.std(leaf) > 0 for leaf in jax.tree.leaves(actual))


def symbolic(row, inputs):
    """The inputs with symbolic shapes: the batch is b, time is s, and t in a decoder."""
    times = ["s"] * len(inputs) if row.is_sequence else []
    if isinstance(row.model, T5):
        times[1] = "t"
    scope = symbolic_scope(times)
    dims = [f"b, {time}, ..." for time in times] or ["b, ..."] * len(inputs)
    return [symbolic_like(array, d, scope) for array, d in zip(inputs, dims, strict=True)]


def symbolic_scope(times):
    """The constraints that a transformer needs of its times."""
    limits = [f"{time}{limit}" for time in set(times) for limit in (">=1", f"<={MAX_LENGTH}")]
    return jax.export.SymbolicScope(["b>=1", *limits])


def symbolic_like(array, dims, scope):
    shape = jax.export.symbolic_shape(dims, scope=scope, like=array.shape)
    return jax.ShapeDtypeStruct(shape, array.dtype)


def random_variables(row, inputs):
    """No zeros, which would hide what a layer does; statistics are positive."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if leaf.shape == ():  # a count
            return jnp.ones((), leaf.dtype)
        if path[0].key == "params":
            return jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(row.model.init, jax.random.key(0), *inputs[: len(inputs) - row.ragged])
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "positions",
    [{"rotary": True}, {}, {"relative_buckets": 4}],
    ids=["rotary", "learned", "relative"],
)
def test_decoding_with_a_kv_cache_exports(positions):
    """One program reads a prompt of any length (prefill), another one token at a time."""
    config = replace(LEARNED_POSITIONS, depth=2, **positions)
    model, prompt = GPT(SIZE, config), jnp.arange(20, dtype=jnp.int32).reshape(4, 5) % SIZE
    variables = jax.jit(model.init)(jax.random.key(0), prompt)

    @jax.jit
    def next_logits(variables, cache, tokens):
        return model.apply({**variables, **cache}, tokens, decode=True, mutable=["cache"])

    prompts = symbolic_like(prompt, "b, s", symbolic_scope("s"))
    token = symbolic_like(prompt[:, :1], "b, 1", symbolic_scope(""))
    _, cache = jax.eval_shape(next_logits, variables, {}, token)
    export = jax.export.export(next_logits, platforms=["cpu"])
    prefill, step = export(variables, {}, prompts), export(variables, cache, token)

    def generate(prefill, step):
        logits, cache = prefill(variables, {}, prompt)
        return logits, step(variables, cache, prompt[:, :1])

    exported, jitted = generate(prefill.call, step.call), generate(next_logits, next_logits)
    jax.tree.map(np.testing.assert_array_equal, exported, jitted)


@pytest.mark.slow
def test_a_sequence_over_the_maximum_is_refused():
    """A known length while tracing, and a symbolic one when the exported program is called."""
    config = TransformerConfig(width=8, depth=1, heads=2, max_length=4)
    model, tokens = GPT(SIZE, config), jnp.zeros((2, 5), jnp.int32)
    with pytest.raises(jdl.Error, match=r"TransformerConfig\.max_length"):
        jax.eval_shape(model.init, jax.random.key(0), tokens)
    variables = jax.jit(model.init)(jax.random.key(0), tokens[:, :4])
    shape = jax.export.symbolic_shape("b, t", constraints=["t<=4"])
    exported = jax.export.export(jax.jit(model.apply), platforms=["cpu"])(
        variables, jax.ShapeDtypeStruct(shape, jnp.int32)
    )
    with pytest.raises(ValueError, match="t"):
        exported.call(variables, tokens)
