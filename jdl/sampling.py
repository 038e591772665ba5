"""Text generation with a KV cache: greedy decoding, top-k and nucleus sampling, and beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.types import Array, Batch, DecodesTokens, Error, Key, Tokenizer, Variables

PIECE = 32  # tokens of a prompt that are read at once where the answer is streamed
TokenSampler = Callable[[Key, Array], Array]  # (key, logits (B, vocabulary)) -> tokens (B,)


def greedy(key: Key, logits: Array) -> Array:
    """Greedy decoding: the most likely tokens (B,) of logits (B, vocabulary)."""
    return logits.argmax(-1).astype(jnp.int32)


def sample_token(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> TokenSampler:
    """Sampling with a temperature, top-k sampling and nucleus sampling (top-p).

    Returns a `TokenSampler`, which samples from the softmax of the logits divided by `temperature`.
    `top_k` above 0 keeps only the k most likely tokens (Fan et al., 2018); `top_p` below 1 keeps
    only the nucleus, the smallest set of most likely tokens whose probabilities sum to at least
    `top_p` (Holtzman et al., 2020).
    """
    if temperature <= 0:
        raise Error(
            f"temperature must be above 0, got {temperature}: for the most likely token, decode "
            "greedily (jdl.sampling.greedy)."
        )
    if top_k < 0 or not 0 < top_p <= 1:
        raise Error(
            f"top_k must be at least 0, and top_p above 0 and at most 1; got {top_k=}, {top_p=}."
        )
    return partial(_sample_token, temperature, top_k, top_p)


def _sample_token(temperature: float, top_k: int, top_p: float, key: Key, logits: Array) -> Array:
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1] or top_p < 1:
        rows = logits.shape[0]
        logits = _allowed(logits, jnp.full(rows, top_k, jnp.int32), jnp.full(rows, top_p))
    return jax.random.categorical(key, logits).astype(jnp.int32)


def _allowed(logits: Array, top_k: Array, top_p: Array) -> Array:
    """The logits (B, vocabulary), of which those that top-k or top-p leave out are -inf.

    `top_k` and `top_p` are (B,); 0 and 1 leave out none.
    """
    vocabulary = logits.shape[-1]
    descending = jnp.sort(logits, axis=-1, descending=True)
    last = jnp.where((top_k > 0) & (top_k < vocabulary), top_k, vocabulary) - 1
    threshold = jnp.take_along_axis(descending, last[:, None], -1)
    candidates = jnp.where(descending >= threshold, descending, -jnp.inf)
    probabilities = jax.nn.softmax(candidates)
    before = probabilities.cumsum(-1) - probabilities  # of all more likely tokens
    nucleus = jnp.where(before < top_p[:, None], candidates, jnp.inf).min(-1, keepdims=True)
    threshold = jnp.where(top_p[:, None] < 1, jnp.maximum(threshold, nucleus), threshold)
    return jnp.where(logits >= threshold, logits, -jnp.inf)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RowSamplers:
    """How the next token of each row is sampled, (B,) each: for rows of different requests.

    A row's token depends on nothing of the others. It is that of `sample_token`, with the key of
    its own seed: that which `generate` and `stream` use for its token number `count`.
    """

    temperature: Array  # 0: greedy decoding
    top_k: Array  # 0: all
    top_p: Array  # 1: all
    seed: Array  # int32
    count: Array  # tokens of the row that were generated before

    def __call__(self, logits: Array) -> Array:
        """The tokens (B,) by the logits (B, vocabulary)."""
        greedily = logits.argmax(-1).astype(jnp.int32)
        sampled = self.temperature > 0
        return jax.lax.cond(
            sampled.any(),
            lambda: jnp.where(sampled, self._sampled(logits), greedily),
            lambda: greedily,
        )

    def _sampled(self, logits: Array) -> Array:
        temperature = jnp.where(self.temperature > 0, self.temperature, 1)
        logits = logits / temperature[:, None]
        logits = jax.lax.cond(  # sorting a large vocabulary costs more than the rest
            ((self.top_k > 0) | (self.top_p < 1)).any(),
            lambda: _allowed(logits, self.top_k, self.top_p),
            lambda: logits,
        )
        draw = jax.vmap(lambda key, row: jax.random.categorical(key, row))
        keys = jax.vmap(lambda seed, n: jax.random.fold_in(jax.random.key(seed), n))
        return draw(keys(self.seed, self.count), logits).astype(jnp.int32)


def generate(
    objective: DecodesTokens,
    variables: Variables,
    prompt: Array,
    tokens: int,
    sampler: TokenSampler = greedy,
    key: Key | None = None,
    eos_id: int | None = None,
    batch: Batch | None = None,
) -> Array:
    """Autoregressive generation with a KV cache: the tokens (B, tokens) after a prompt (B, P).

    `tokens` is the number of new tokens; P is at least 1. An encoder-decoder encodes the x of
    `batch`. After its first `eos_id`, a row has only `eos_id` tokens.
    """
    if tokens < 1 or not prompt.shape[1]:
        raise Error(
            f"Generation needs at least 1 token of a prompt and 1 new token, got {prompt.shape[1]} "
            f"and {tokens}."
        )
    length = prompt.shape[1] + tokens - 1
    objective = _decoder(objective, variables, prompt.shape[0], length, batch)
    cache = objective.init_cache(variables, batch or {})
    logits, cache = objective.next_logits(variables, cache, prompt)
    key = jax.random.key(0) if key is None else key

    def sample(n: Array, logits: Array, finished: Array) -> tuple[Array, Array]:
        token = sampler(jax.random.fold_in(key, n), logits)
        if eos_id is None:
            return token, finished
        token = jnp.where(finished, eos_id, token)
        return token, finished | (token == eos_id)

    def step(carry: tuple[Array, Any, Array], n: Array) -> tuple[tuple[Array, Any, Array], Array]:
        token, cache, finished = carry
        logits, cache = objective.next_logits(variables, cache, token[:, None])
        new, finished = sample(n, logits[:, -1], finished)
        return (new, cache, finished), token

    unfinished = jnp.zeros(prompt.shape[:1], bool)
    first, finished = sample(jnp.zeros((), jnp.int32), logits[:, -1], unfinished)
    (last, _, _), before = jax.lax.scan(step, (first, cache, finished), jnp.arange(1, tokens))
    return jnp.concatenate([before.T, last[:, None]], 1)


def stream(
    objective: DecodesTokens,
    variables: Variables,
    prompt: np.ndarray,
    tokens: int,
    sampler: TokenSampler = greedy,
    key: Key | None = None,
    eos_id: int | None = None,
) -> Iterator[int]:
    """Streaming generation: each of up to `tokens` tokens after a prompt (P,), when it is known.

    They are those that `generate` gives, without `eos_id` and what follows it. The prompt is read
    in pieces of fixed lengths, so that prompts of any length need no program of their own.
    """
    objective = _decoder(objective, variables, 1, len(prompt) + tokens - 1, None)
    key = jax.random.key(0) if key is None else key
    cache = objective.init_cache(variables, {})
    whole = len(prompt) // PIECE * PIECE
    pieces = [*prompt[:whole].reshape(-1, PIECE), *prompt[whole:].reshape(-1, 1)]
    for piece in pieces:
        read = jnp.asarray(piece[None], jnp.int32)
        logits, cache = _next_logits(objective, variables, cache, read)
    for n in range(tokens):
        token = int(_sample(sampler, jax.random.fold_in(key, n), logits)[0])
        if token == eos_id:
            return
        yield token
        if n + 1 < tokens:
            last = jnp.full((1, 1), token, jnp.int32)
            logits, cache = _next_logits(objective, variables, cache, last)


@partial(jax.jit, static_argnums=0)
def _next_logits(
    objective: DecodesTokens, variables: Variables, cache: Any, tokens: Array
) -> tuple[Array, Any]:
    """The logits (B, vocabulary) after the tokens (B, t), and the KV cache."""
    logits, cache = objective.next_logits(variables, cache, tokens)
    return logits[:, -1], cache


_sample = partial(jax.jit, static_argnums=0)(lambda sampler, key, logits: sampler(key, logits))


def decode_stream(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens, piece by piece: a letter of several tokens when all of them are there."""
    decoder = StreamDecoder(tokenizer)
    for token in tokens:
        if piece := decoder.push(token):
            yield piece
    if rest := decoder.rest():
        yield rest


@dataclass(eq=False)
class StreamDecoder:
    """Incremental detokenization: the text of tokens as they come, in whole letters.

    It decodes the tokens since the last whole letter and the token before them, which some
    tokenizers need for spaces, so that a long text costs no more a token than a short one.
    """

    tokenizer: Tokenizer
    tokens: list[int] = field(default_factory=list)  # those that are decoded together
    written: str = ""  # what was given of their text

    def push(self, token: int) -> str:
        """The text that is certain now, empty inside of a letter."""
        self.tokens.append(token)
        text = self.tokenizer.decode(self.tokens)
        whole = not text.endswith("\ufffd")
        certain = text if whole else text[:-1]  # the end may be a part of a letter
        if not certain.startswith(self.written):
            return ""
        piece = certain[len(self.written) :]
        self.written = certain
        if whole and piece:
            self.tokens = self.tokens[-1:]
            self.written = self.tokenizer.decode(self.tokens)
        return piece

    def rest(self) -> str:
        """The text that was held back, at the end."""
        return self.tokenizer.decode(self.tokens)[len(self.written) :]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Beams:
    """The beams of a beam search, `width` for each of B rows."""

    tokens: Array  # (B, width, tokens)
    scores: Array  # (B, width): sums of log-probabilities
    lengths: Array  # (B, width): numbers of tokens, up to and including `eos_id`
    finished: Array  # (B, width): whether `eos_id` has been generated
    cache: Any  # arrays (B * width, ...): the KV cache


def beam_search(
    objective: DecodesTokens,
    variables: Variables,
    prompt: Array,
    tokens: int,
    width: int = 4,
    eos_id: int | None = None,
    batch: Batch | None = None,
    length_penalty: float = 0.0,
) -> tuple[Array, Array]:
    """Beam search with a KV cache: the `width` best continuations of a prompt (B, P), best first.

    Returns their tokens (B, width, tokens) and scores (B, width). A score is the sum of the
    log-probabilities of the n tokens up to and including `eos_id`, divided by ((5 + n) / 6) **
    length_penalty (Wu et al., 2016). After its first `eos_id`, a beam has only `eos_id`
    tokens. P is at least 1; an encoder-decoder encodes the x of `batch`.
    """
    if width < 1:
        raise Error(f"Beam search needs at least 1 beam, got width={width}.")
    length = prompt.shape[1] + tokens - 1
    objective = _decoder(objective, variables, prompt.shape[0], length, batch)
    cache = objective.init_cache(variables, batch or {})
    logits, cache = objective.next_logits(variables, cache, prompt)
    vocabulary = logits.shape[-1]
    if width > vocabulary:
        raise Error(
            f"The vocabulary has only {vocabulary} tokens, and width={width} is more: reduce it."
        )

    def step(n: Array, beams: Beams) -> Beams:
        last = jax.lax.dynamic_index_in_dim(beams.tokens, n - 1, 2, keepdims=False)
        logits, cache = objective.next_logits(variables, beams.cache, last.reshape(-1, 1))
        beams = Beams(beams.tokens, beams.scores, beams.lengths, beams.finished, cache)
        return _extend_beams(beams, logits[:, -1], n, eos_id, length_penalty)

    # The prompt is read once per row; the cache is then repeated for each beam of the row.
    beams = _start_beams(logits[:, -1], cache, tokens, width, eos_id)
    beams = jax.lax.fori_loop(1, tokens, step, beams)
    return beams.tokens, beams.scores / _penalty(beams.lengths, length_penalty)


def _start_beams(logits: Array, cache: Any, tokens: int, width: int, eos_id: int | None) -> Beams:
    """Beams of one token: the `width` most likely first tokens by logits (B, vocabulary)."""

    def repeat(leaf: Array) -> Array:
        return jnp.repeat(leaf, width, 0) if leaf.ndim else leaf

    rows = len(logits)
    scores, first = jax.lax.top_k(jax.nn.log_softmax(logits), width)
    written = jnp.zeros((rows, width, tokens), jnp.int32).at[:, :, 0].set(first)
    finished = first == eos_id if eos_id is not None else jnp.zeros((rows, width), bool)
    lengths = jnp.ones((rows, width), jnp.int32)
    return Beams(written, scores, lengths, finished, jax.tree.map(repeat, cache))


def _extend_beams(
    beams: Beams, logits: Array, n: Array, eos_id: int | None, length_penalty: float
) -> Beams:
    """The best beams one token longer, by the logits (B * width, vocabulary) of token n."""
    rows, width = beams.scores.shape
    vocabulary = logits.shape[-1]
    log_probs = jax.nn.log_softmax(logits).reshape(rows, width, vocabulary)
    if eos_id is not None:  # a finished beam has one continuation, of probability 1
        only_end = jnp.where(jnp.arange(vocabulary) == eos_id, 0.0, -jnp.inf)
        log_probs = jnp.where(beams.finished[:, :, None], only_end[None, None], log_probs)
    lengths = beams.lengths + (~beams.finished).astype(jnp.int32)
    scores = beams.scores[:, :, None] + log_probs
    penalized = scores / _penalty(lengths, length_penalty)[:, :, None]
    _, best = jax.lax.top_k(penalized.reshape(rows, -1), width)
    parents, token = best // vocabulary, (best % vocabulary).astype(jnp.int32)

    def of_parents(leaf: Array) -> Array:
        index = parents.reshape(rows, width, *(1,) * (leaf.ndim - 2))
        return jnp.take_along_axis(leaf, index, 1)

    def cache_of_parents(leaf: Array) -> Array:
        if not leaf.ndim:
            return leaf
        return of_parents(leaf.reshape(rows, width, -1)).reshape(leaf.shape)

    written = jax.lax.dynamic_update_index_in_dim(of_parents(beams.tokens), token, n, 2)
    scores = jnp.take_along_axis(scores.reshape(rows, -1), best, 1)
    finished = beams.finished
    if eos_id is not None:
        finished = of_parents(finished) | (token == eos_id)
    cache = jax.tree.map(cache_of_parents, beams.cache)
    return Beams(written, scores, of_parents(lengths), finished, cache)


def decode_until_end(tokenizer: Tokenizer, tokens: np.ndarray) -> str:
    """The text of the tokens (n,) up to the first end-of-text token."""
    ends = np.flatnonzero(tokens == tokenizer.eos_id)
    return tokenizer.decode(tokens[: ends[0]] if len(ends) else tokens)


def _penalty(lengths: Array, power: float) -> Array:
    return ((5 + lengths.astype(jnp.float32)) / 6) ** power


@dataclass(frozen=True, eq=False)
class WholeWindow:
    """Decoding without a KV cache: each step computes a window of `max_length` tokens anew.

    For a language model without an argument `decode`. It must be causal: what is behind a token,
    padding, has no effect on its logits. The window has one shape, so that it is compiled once.
    """

    objective: Any  # of which `next_logits` without a cache gives the logits of a whole text
    max_length: int

    def init_cache(self, variables: Variables, batch: Batch) -> Any:
        """Empty: the window is made by the first call."""
        return {}

    def next_logits(self, variables: Variables, cache: Any, tokens: Array) -> tuple[Array, Any]:
        """The logits (B, t, vocabulary) after each of the next tokens (B, t), and the window."""
        rows, steps = tokens.shape
        text = cache["text"] if cache else jnp.zeros((rows, self.max_length), tokens.dtype)
        count = cache["count"] if cache else jnp.zeros((), jnp.int32)
        text = jax.lax.dynamic_update_slice_in_dim(text, tokens, count, 1)
        logits, _ = self.objective.next_logits(variables, None, text)
        new = jax.lax.dynamic_slice_in_dim(logits, count, steps, 1)
        return new, {"text": text, "count": count + steps}


def decoder_of(objective: DecodesTokens, variables: Variables, length: int) -> DecodesTokens:
    """The objective, or where its model has no KV cache, a `WholeWindow` of `length` tokens.

    A window must not be longer than the texts that the model was trained on: of longer ones it may
    know nothing. Raises `Error` where the model cannot read so many tokens, and where its logits
    are NaN then, as from a table of positions that is shorter; not in a `jax.jit` of the variables.
    """
    if getattr(objective, "has_cache", True):
        return objective
    window = WholeWindow(objective, length)
    _check_room(window, variables, 1, length, {})
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(variables)):
        return window
    with jax.ensure_compile_time_eval():  # also in a trace that has the variables as constants
        text = jnp.zeros((1, length), jnp.int32)
        logits, _ = _next_logits(objective, variables, None, text)
    if np.isnan(logits).any():
        raise Error(
            f"The model's logits are NaN after {length} tokens: these are more than it was trained "
            "on, or its parameters are NaN. Generate fewer, or give it an attribute max_length, "
            "the most tokens that it reads."
        )
    return window


def _decoder(
    objective: DecodesTokens, variables: Variables, rows: int, tokens: int, batch: Batch | None
) -> DecodesTokens:
    """The decoder to decode so many tokens with the prompt's; raises `Error` where they do not fit.

    They may be too many for the model's KV cache, or for the model.
    """
    if objective.max_length is not None and tokens > objective.max_length:
        raise Error(
            f"The model reads at most {objective.max_length} tokens, its max_length, and the "
            f"prompt and the new tokens are {tokens + 1} together: generate fewer, or train with a "
            "larger TransformerConfig.max_length."
        )
    decoder = decoder_of(objective, variables, tokens)
    if decoder.max_length is None:
        _check_room(decoder, variables, rows, tokens, batch or {})
    return decoder


def _check_room(
    objective: DecodesTokens, variables: Variables, rows: int, tokens: int, batch: Batch
) -> None:
    """Raises `Error` where so many tokens cannot be read at once, by shapes: there is no room."""

    def read(variables: Variables, text: Array) -> Any:
        return objective.next_logits(variables, objective.init_cache(variables, batch), text)

    try:
        jax.eval_shape(read, variables, jax.ShapeDtypeStruct((rows, tokens), jnp.int32))
    except (TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Error(
            f"The model cannot read {tokens} tokens ({reason:.200}): generate fewer, or give it an "
            "attribute max_length, the most tokens that it or its KV cache takes; jdl sample then "
            "goes on with the last half of them."
        ) from error
