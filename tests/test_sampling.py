"""Generation with a KV cache equals generation without one, token for token; sampling and beams.

Seen to fail: the position of the first row for all, padding that moved the positions, and
each refusal of a prompt without its check.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.layers import GRU
from jdl.models.captioner import Captioner
from jdl.models.encoder_decoder import EncoderDecoder
from jdl.models.gpt import GPT
from jdl.models.resnet import ResNet
from jdl.models.rnn import RNN
from jdl.models.t5 import T5
from jdl.models.transformer import TransformerConfig
from jdl.objectives import next_token, seq2seq
from jdl.sampling import (
    RowSamplers,
    beam_search,
    decode_stream,
    decode_until_end,
    generate,
    greedy,
    sample_token,
    stream,
)

SIZE, TOKENS = 11, 9
MODELS = {
    "gpt": GPT(SIZE, TransformerConfig(width=16, depth=2, heads=4, kv_heads=2, max_length=16)),
    "gpt-learned": GPT(
        SIZE,
        TransformerConfig(width=16, depth=1, heads=2, rotary=False, pre_norm=False, max_length=16),
    ),
    "gpt-relative": GPT(
        SIZE,
        TransformerConfig(
            width=16, depth=2, heads=2, rotary=False, relative_buckets=8, max_length=16
        ),
    ),
    "gpt-local": GPT(
        SIZE,
        TransformerConfig(16, 4, 4, 2, max_length=16, window=3, global_every=2, attention_cap=5.0),
        logit_cap=20.0,
    ),
    "gpt-experts": GPT(
        SIZE, TransformerConfig(16, 3, 2, max_length=16, attention_every=2, experts=4)
    ),
    "gru": RNN(SIZE, (12, 8), GRU, vocab_size=SIZE, embedding_width=6, return_sequences=True),
    "t5": T5(SIZE, TransformerConfig(width=16, depth=2, heads=2, max_length=16)),
    "captioner": Captioner(
        SIZE, ResNet(None, ((4, 1),)), TransformerConfig(16, 1, 2, max_length=16)
    ),
    "t5-copy": T5(SIZE, TransformerConfig(width=16, depth=1, heads=2, max_length=16), copying=True),
}
PROMPT = jax.random.randint(jax.random.key(5), (3, 4), 0, SIZE)
SOURCE = {
    "x": jax.random.randint(jax.random.key(6), (3, 6), 0, SIZE),
    "length": jnp.asarray([6, 3, 1]),
}
IMAGES = {"x": jax.random.normal(jax.random.key(7), (3, 4, 4, 1))}
SAMPLERS = [(greedy, None), (sample_token(1.3, top_k=5, top_p=0.8), 3)]  # with the end token


def prepared(name):
    """Objective, variables far from uniform, what the encoder reads, and logits without a cache."""
    model = MODELS[name]
    source = IMAGES if isinstance(model, Captioner) else SOURCE
    if isinstance(model, Captioner):
        objective, batch = seq2seq(model, eos_id=0), {**IMAGES, "y": PROMPT}

        def full(variables, tokens):
            return model.apply(variables, IMAGES["x"], tokens)
    elif isinstance(model, T5):
        objective, batch = seq2seq(model, eos_id=0), {**SOURCE, "y": PROMPT}
        mask = jnp.arange(6)[None] < SOURCE["length"][:, None]

        def full(variables, tokens):
            return model.apply(variables, SOURCE["x"], tokens, mask=mask)
    else:
        objective, batch = next_token(model), {"x": PROMPT}
        full = model.apply
    variables = jax.jit(objective.init)(jax.random.key(1), batch)
    variables = jax.tree.map(lambda v: v * 3 if v.ndim > 1 else v, variables)
    return (
        objective,
        variables,
        source if isinstance(model, EncoderDecoder) else None,
        jax.jit(full),
    )


def uncached(full, variables, sampler, key, eos_id=None):
    """One token at a time, by logits of the whole sequence; padded, so that it is compiled once."""
    written = PROMPT
    finished = jnp.zeros(len(PROMPT), bool)
    for n in range(TOKENS):
        padded = jnp.pad(written, ((0, 0), (0, PROMPT.shape[1] + TOKENS - written.shape[1])))
        logits = full(variables, padded)[:, written.shape[1] - 1]
        token = sampler(jax.random.fold_in(key, n), logits)
        if eos_id is not None:
            token = jnp.where(finished, eos_id, token)
            finished = finished | (token == eos_id)
        written = jnp.concatenate([written, token[:, None]], 1)
    return written[:, PROMPT.shape[1] :]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_with_and_without_a_cache_the_same_tokens(name):
    objective, variables, source, full = prepared(name)
    key = jax.random.key(9)
    for sampler, eos_id in SAMPLERS:
        write = partial(
            generate,
            objective,
            prompt=PROMPT,
            tokens=TOKENS,
            sampler=sampler,
            key=key,
            eos_id=eos_id,
            batch=source,
        )
        tokens = jax.jit(write)(variables)
        expected = uncached(full, variables, jax.jit(sampler), key, eos_id)
        np.testing.assert_array_equal(tokens, expected)
    assert len(np.unique(np.asarray(tokens))) > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt", "gru", "t5-copy"])
def test_beam_search_equals_search_without_a_cache(name):
    """Against a plain search in Python that scores whole sequences."""
    objective, variables, source, full = prepared(name)
    width, tokens, end = 3, 4, 2

    @jax.jit
    def search(variables):
        return beam_search(objective, variables, PROMPT, tokens, width, end, source, 0.6)

    texts, scores = search(variables)
    for row in range(len(PROMPT)):
        beams = [((), 0.0)]
        for _ in range(tokens):
            grown = []
            for written, score in beams:
                if end in written:
                    grown.append(((*written, end), score))
                    continue
                sequence = [*np.asarray(PROMPT[row]).tolist(), *written]
                padded = np.zeros((len(PROMPT), PROMPT.shape[1] + tokens), np.int32)
                padded[row, : len(sequence)] = sequence
                nats = jax.nn.log_softmax(
                    full(variables, jnp.asarray(padded))[row, len(sequence) - 1]
                )
                grown += [((*written, token), score + float(nats[token])) for token in range(SIZE)]
            beams = sorted(grown, key=lambda one: -penalized(one, end))[:width]
        np.testing.assert_array_equal(texts[row], [written for written, _ in beams])
        np.testing.assert_allclose(scores[row], [penalized(one, end) for one in beams], rtol=1e-4)


def penalized(one, end):
    written, score = one
    length = written.index(end) + 1 if end in written else len(written)
    return score / ((5 + length) / 6) ** 0.6


@pytest.mark.slow
def test_one_beam_is_greedy():
    objective, variables, _, _ = prepared("gpt")
    beams, _ = jax.jit(lambda v: beam_search(objective, v, PROMPT, TOKENS, 1))(variables)
    tokens = jax.jit(lambda v: generate(objective, v, PROMPT, TOKENS))(variables)
    np.testing.assert_array_equal(beams[:, 0], tokens)


def test_samples_follow_the_probabilities_of_the_allowed_tokens():
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    keys = jax.random.split(jax.random.key(0), 4000)

    def shares(sampler):
        tokens = jax.jit(jax.vmap(lambda key: sampler(key, logits)[0]))(jax.random.clone(keys))
        return np.bincount(tokens, minlength=4) / len(keys)

    np.testing.assert_allclose(shares(sample_token()), [0.5, 0.3, 0.15, 0.05], atol=0.03)
    np.testing.assert_allclose(shares(sample_token(top_k=2)), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(sample_token(top_p=0.6)), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(sample_token(top_p=0.45)), [1, 0, 0, 0], atol=0.03)
    np.testing.assert_allclose(
        shares(sample_token(top_k=3, top_p=0.9)), [10 / 19, 6 / 19, 3 / 19, 0], atol=0.03
    )
    squared = np.asarray([0.5, 0.3, 0.15, 0.05]) ** 2
    np.testing.assert_allclose(
        shares(sample_token(temperature=0.5)), squared / squared.sum(), atol=0.03
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_token(0.0), "greedily"),
        (lambda: sample_token(top_p=0.0), "top_p"),
        (lambda: generate(*prepared("gpt")[:2], PROMPT, 14), "TransformerConfig.max_length"),
        (lambda: beam_search(*prepared("gpt")[:2], PROMPT, 14), "TransformerConfig.max_length"),
        (lambda: beam_search(*prepared("gpt")[:2], PROMPT, 4, 0), "at least 1 beam"),
        (lambda: beam_search(*prepared("gpt")[:2], PROMPT, 4, 12), "only 11 tokens"),
        *(
            (lambda find=find, prompt=prompt: find(*prepared("gpt")[:2], prompt, 4), message)
            for find in (generate, beam_search)
            for prompt, message in (
                (np.array([[0, SIZE]]), "from 0 to 11, but the model's vocabulary is 0 to 10"),
                ([[-1]], "from -1 to -1"),
                (np.arange(3), r"\(B, P\), .* not int64\[3\]. One text is one row: \[tokens\]"),
                (np.zeros((1, 3), np.float32), r"not float32\[1, 3\]"),
                ([[1, 2], [3]], "of one length"),
                ([[1, 2], 3], "of one length"),
                ([np.arange(2), np.arange(3)], "of one length"),
                ("once", "tokens, not text"),
                (["once"], "tokens, not text"),
                (3, r"not int64\[\]"),
            )
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(jdl.Error, match=message):
        call()


def test_a_prompt_may_be_a_list_of_lists():
    objective, variables = prepared("gpt")[:2]
    found = generate(objective, variables, PROMPT.tolist(), 2)
    np.testing.assert_array_equal(found, generate(objective, variables, PROMPT, 2))


def test_text_ends_before_the_end_token():
    tokenizer = jdl.data.ByteTokenizer()
    tokens = np.append(tokenizer.encode("ab"), [tokenizer.eos_id, *tokenizer.encode("c")])
    assert decode_until_end(tokenizer, tokens) == "ab"
    assert decode_until_end(tokenizer, tokens[:2]) == "ab"


@pytest.mark.parametrize(("prompt", "tokens"), [(PROMPT, 0), (PROMPT[:, :0], 3)])
def test_a_prompt_and_a_new_token_are_needed(prompt, tokens):
    with pytest.raises(jdl.Error, match="at least 1 token"):
        generate(*prepared("gpt")[:2], prompt, tokens)


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "eos_id"), SAMPLERS)
@pytest.mark.parametrize("name", ["gpt", "gru"])
def test_streaming_gives_what_generate_gives(name, sampler, eos_id, monkeypatch):
    """The prompt is read in a piece of three tokens and one of one."""
    monkeypatch.setattr("jdl.sampling.generation.PIECE", 3)
    objective, variables, _, _ = prepared(name)
    key = jax.random.key(7)
    for row in range(3):
        prompt = PROMPT[row : row + 1]
        whole = generate(objective, variables, prompt, TOKENS, sampler, key, eos_id)[0].tolist()
        whole = whole[: whole.index(eos_id)] if eos_id in whole else whole
        streamed = stream(objective, variables, prompt[0], TOKENS, sampler, key, eos_id)
        assert list(streamed) == whole


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt", "gpt-learned", "gpt-relative", "gru"])
def test_rows_of_several_lengths_are_each_as_alone(name):
    """Padded prompts, then steps at a position of each row's own, beside logits without a cache."""
    objective, variables, _, full = prepared(name)
    rows = [
        np.asarray(row[:length]).tolist() for row, length in zip(PROMPT, (4, 1, 3), strict=True)
    ]
    step = jax.jit(objective.next_logits)
    logits, cache = jax.jit(objective.prefill)(variables, PROMPT, jnp.asarray([4, 1, 3]))
    for n in range(5):
        longest = max(map(len, rows))
        padded = jnp.asarray([row + [0] * (9 - len(row)) for row in rows], jnp.int32)
        expected = full(variables, padded)[jnp.arange(3), jnp.asarray([len(r) - 1 for r in rows])]
        assert longest == 4 + n
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
        token = jnp.asarray([[n], [3], [7 - n]], jnp.int32)
        logits, cache = step(variables, cache, token)
        logits = logits[:, 0]
        rows = [[*row, int(new[0])] for row, new in zip(rows, token, strict=True)]


def test_rows_are_sampled_each_in_its_own_way():
    """A row's token is that of `sample_token` with the key of its own seed and count, or greedy."""
    ways = [
        (0.0, 0, 1.0),
        (0.7, 0, 1.0),
        (1.3, 4, 1.0),
        (1.0, 0, 0.6),
        (2.0, 5, 0.9),
        (0.0, 2, 0.5),
    ]
    logits = jax.random.normal(jax.random.key(2), (len(ways), SIZE)) * 2
    seeds, counts = [3, 3, 0, 7, 2**31 - 1, 1], [0, 5, 0, 1, 2, 3]
    temperature, top_k, top_p = (jnp.asarray(column) for column in zip(*ways, strict=True))
    rows = RowSamplers(temperature, top_k, top_p, jnp.asarray(seeds), jnp.asarray(counts))
    found = jax.jit(lambda rows, logits: rows(logits))(rows, logits)
    for n, (temperature, top_k, top_p) in enumerate(ways):
        sampler = sample_token(temperature, top_k, top_p) if temperature else greedy
        key = jax.random.fold_in(jax.random.key(seeds[n]), counts[n])
        assert found[n] == jax.jit(sampler)(key, logits[n : n + 1])[0]


def test_pieces_are_whole_letters_of_the_text():
    """Of any bytes, UTF-8 or not; only the last piece may be a part of a letter."""
    tokenizer, rng = jdl.data.ByteTokenizer(), np.random.default_rng(0)
    for n in range(40):
        letters = tokenizer.encode("aé字\N{SNOWMAN}\N{GRINNING FACE}b")
        tokens = rng.integers(0, 257, 30) if n % 2 else rng.permutation(np.tile(letters, 3))
        tokens = tokens.tolist()
        pieces = list(decode_stream(tokenizer, tokens))
        assert "".join(pieces) == tokenizer.decode(tokens)
        assert "" not in pieces
    assert list(decode_stream(tokenizer, [255] * 4)) == ["\ufffd"] * 4  # never letters


@pytest.mark.slow
def test_a_letter_is_streamed_when_all_of_its_bytes_are_there():
    tokenizer = jdl.data.ByteTokenizer()
    text = "aé字\N{SNOWMAN}b"
    pieces = list(decode_stream(tokenizer, tokenizer.encode(text)))
    assert pieces == list(text)
    assert list(decode_stream(tokenizer, tokenizer.encode(text)[:4])) == ["a", "é", "\ufffd"]
