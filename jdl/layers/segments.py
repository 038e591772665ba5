"""Several documents in a row of tokens: where each begins."""

import jax
import jax.numpy as jnp


def segment_starts(segment: jax.Array) -> jax.Array:
    """Where (B, T) another document begins, of the numbers (B, T) of each step's document.

    False at the first step, before which there is none.
    """
    return jnp.pad(segment[:, 1:] != segment[:, :-1], ((0, 0), (1, 0)))


def segment_positions(segment: jax.Array) -> jax.Array:
    """The position (B, T) of each step in its own document."""
    steps = jnp.arange(segment.shape[1])[None]
    return steps - jax.lax.cummax(jnp.where(segment_starts(segment), steps, 0), axis=1)
