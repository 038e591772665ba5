"""What decodes the tokens: the objective with its KV cache, or a whole window without one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.types import Array, Batch, DecodesTokens, Error, Variables


@partial(jax.jit, static_argnums=0)
def next_logits_after(
    objective: DecodesTokens, variables: Variables, cache: Any, tokens: Array
) -> tuple[Array, Any]:
    """The logits (B, vocabulary) after the tokens (B, t), and the KV cache."""
    logits, cache = objective.next_logits(variables, cache, tokens)
    return logits[:, -1], cache


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
        logits, _ = next_logits_after(objective, variables, None, text)
    if np.isnan(logits).any():
        raise Error(
            f"The model's logits are NaN after {length} tokens: these are more than it was trained "
            "on, or its parameters are NaN. Generate fewer, or give it an attribute max_length, "
            "the most tokens that it reads."
        )
    return window


def checked_prompt(prompt: Any) -> Array:
    """The prompt as an array (B, P) of whole numbers; raises `Error` where it is none."""
    if not hasattr(prompt, "dtype"):
        try:
            prompt = np.asarray(prompt)
        except ValueError as error:
            raise Error(
                "The rows of a prompt must be of one length: generate for those of each length."
            ) from error
    if prompt.dtype.kind in "US":
        raise Error("A prompt is tokens, not text: prompt=tokenizer.encode(text)[None].")
    if prompt.ndim != 2 or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise Error(
            "A prompt is an array of tokens (B, P), whole numbers, or a list of lists, not "
            f"{prompt.dtype}{list(prompt.shape)}. One text is one row: [tokens], or "
            "tokens[None] of an array."
        )
    return jnp.asarray(prompt)


def check_vocabulary(prompt: Array, size: int) -> None:
    """Raises `Error` for tokens outside of the vocabulary; not in a `jax.jit` of the prompt."""
    if isinstance(prompt, jax.core.Tracer):
        return
    known = np.asarray(prompt)  # within another jit, too, where jnp would trace
    least, greatest = int(known.min()), int(known.max())
    if least < 0 or greatest >= size:
        raise Error(
            f"The tokens of the prompt run from {least} to {greatest}, but the model's vocabulary "
            f"is 0 to {size - 1}: encode it with the tokenizer of the training."
        )


def checked_decoder(
    objective: DecodesTokens,
    variables: Variables,
    prompt: tuple[int, ...],
    new_tokens: int,
    batch: Batch | None,
) -> DecodesTokens:
    """The decoder for so many new tokens after a prompt (B, P), given by its shape.

    Raises `Error` where there are none, or too many for the model's KV cache, or for the model.
    """
    rows, length = prompt
    if new_tokens < 1 or not length:
        raise Error(
            f"Generation needs at least 1 token of a prompt and 1 new token, got {length} and "
            f"{new_tokens}."
        )
    tokens = length + new_tokens - 1  # the last is not read
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
