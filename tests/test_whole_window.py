"""Language models without a KV cache generate what those with one generate.

Seen to fail: logits of the window's first tokens, a window that keeps no tokens, no check of the
cache's room, no refusal of `next_logits` without a cache, and `jdl sample` without the window;
no check of the window's logits, a `max_length` that is not looked at, an error without a text.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.inspect.restore import TrainedRun
from jdl.inspect.sample import generate_text
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig
from jdl.objectives import next_token
from jdl.sampling import beam_search, decoder_of, generate, greedy, sample_token, stream

TOKENIZER = jdl.data.ByteTokenizer()
MODEL = GPT(TOKENIZER.vocab_size, TransformerConfig(width=16, depth=1, heads=2, max_length=12))
PROMPT = jax.random.randint(jax.random.key(5), (2, 4), 0, 99)


class Plain(nn.Module):
    """A model without a cache, and without `max_length`."""

    gpt: GPT = MODEL

    @nn.compact
    def __call__(self, x):
        return self.gpt(x)


class Short(nn.Module):
    """A model with a cache of 12 tokens that does not say so, or without one."""

    keeps: bool = True

    @nn.compact
    def __call__(self, x, decode=False):
        h = nn.Embed(TOKENIZER.vocab_size, 4)(x)
        if decode and self.keeps:
            past = self.variable("cache", "past", jnp.zeros, (len(x), 12, 4))
            past.value = jax.lax.dynamic_update_slice_in_dim(past.value, h, 0, 1)
        return nn.Dense(TOKENIZER.vocab_size)(h)


class Positions(nn.Module):
    """A model without a cache, with embeddings of 8 positions, looked up or sliced."""

    sliced: bool = False
    max_length: int | None = None

    @nn.compact
    def __call__(self, x):
        table = nn.Embed(8, 4)
        positions = table.embedding[: x.shape[1]] if self.sliced else table(jnp.arange(x.shape[1]))
        return nn.Dense(99)(nn.Embed(99, 4)(x) + positions[None])


class Refuses(nn.Module):
    """A model whose exception has no text."""

    @nn.compact
    def __call__(self, x, decode=False):
        if decode:
            raise ValueError
        return nn.Dense(99)(nn.Embed(99, 4)(x))


@pytest.fixture(scope="module")
def both():
    """Objectives with and without a cache, each with variables, far from uniform."""
    variables = jax.jit(next_token(MODEL).init)(jax.random.key(1), {"x": PROMPT})
    variables = jax.tree.map(lambda v: v * 3 if v.ndim > 1 else v, variables)
    plain = {"params": {"gpt": variables["params"]}}
    return (next_token(MODEL), variables), (next_token(Plain()), plain)


@pytest.mark.parametrize(
    "decode",
    [
        lambda o, v: generate(o, v, PROMPT, 8, sample_token(1.3), jax.random.key(3), 5),
        lambda o, v: list(stream(o, v, np.asarray(PROMPT[0]), 8)),
        lambda o, v: beam_search(o, v, PROMPT, 6, 3)[0],
    ],
)
def test_with_and_without_a_cache_the_same_tokens(both, decode):
    cached, plain = (decode(*pair) for pair in both)
    np.testing.assert_array_equal(cached, plain)
    assert len(np.unique(np.asarray(cached))) > 2


def test_texts_go_on_with_the_last_half_of_the_window_as_with_a_cache(both):
    texts = []
    for objective, variables in both:
        data = jdl.data.arrays(x=np.zeros((2, 13), np.int32)).shuffled(2, 0)
        learner = jdl.descent(objective, optax.sgd(0.1))
        state = learner.init(jax.random.key(0), data[0])
        run = jdl.Run(jdl.Config(steps=1), learner, data, tokenizer=TOKENIZER)
        trained = TrainedRun(run, jdl.State(**{**vars(state), "params": variables["params"]}))
        texts.append(lambda trained=trained: generate_text(trained, "ab", 30, greedy))
    cached = texts[0]()
    with pytest.warns(UserWarning, match="no KV cache: each token computes a window of 12 tokens"):
        assert texts[1]() == cached


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Short(), "cannot read 13 tokens.* max_length"),
        (Short(False), "keeps no variables"),
        (Refuses(), r"cannot read 13 tokens \(ValueError\)"),
        (Positions(max_length=8), "at most 8 tokens"),
        (Positions(sliced=True), "cannot read 13 tokens"),
    ],
)
def test_caches_that_are_short_or_missing_are_refused(model, message):
    objective = next_token(model)
    variables = objective.init(jax.random.key(0), {"x": PROMPT})
    with pytest.raises(jdl.Error, match=message):
        generate(objective, variables, PROMPT, 10)


@pytest.mark.parametrize(
    "decode",
    [
        lambda o, v: generate(o, v, PROMPT, 6),
        lambda o, v: jax.jit(lambda: generate(o, v, PROMPT, 6))(),
        lambda o, v: list(stream(o, v, np.asarray(PROMPT[0]), 6)),
        lambda o, v: beam_search(o, v, PROMPT, 6, 2),
    ],
)
def test_windows_that_are_longer_than_the_models_positions_are_refused(decode):
    objective = next_token(Positions())
    variables = objective.init(jax.random.key(0), {"x": PROMPT})
    decoder_of(objective, variables, 8)
    with pytest.raises(jdl.Error, match=r"logits are NaN after 9 tokens.* max_length"):
        decode(objective, variables)


def test_a_model_without_a_cache_is_not_decoded_step_by_step(both):
    objective, variables = both[1]
    with pytest.raises(jdl.Error, match="Plain has no KV cache"):
        objective.next_logits(variables, {}, jnp.zeros((1, 1), jnp.int32))
