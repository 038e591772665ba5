"""Rotary position embeddings, and the frequencies that they rotate by."""

from __future__ import annotations

from math import tau

import jax
import jax.numpy as jnp
from jax import lax


def rotary_embedding(
    x: jax.Array, positions: jax.Array, frequencies: jax.Array | None = None
) -> jax.Array:
    """Rotary position embedding, RoPE (Su et al., 2021), of queries or keys x (B, T, H, D), D even.

    The pairs (x[i], x[i + D / 2]) are rotated by angles that grow with `positions` (T,) or (B, T),
    so that the product of a query and a key depends only on the distance of their positions. The
    angles are the positions times the `frequencies` (D / 2,), by default those of
    `rotary_frequencies`.
    """
    half = x.shape[-1] // 2
    if frequencies is None:
        frequencies = rotary_frequencies(x.shape[-1])
    positions = positions if positions.ndim == 2 else positions[None]
    angles = positions.astype(jnp.float32)[:, :, None] * frequencies[None, None]
    # Without the barrier, XLA's CPU backend recomputes them for every row and head.
    cos, sin = lax.optimization_barrier(
        tuple(f(angles).astype(x.dtype)[:, :, None] for f in (jnp.cos, jnp.sin))
    )
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def rotary_frequencies(width: int, base: float = 10_000.0) -> jax.Array:
    """The frequencies (width / 2,) of RoPE, in radians a position, for heads of this width.

    They fall from 1 to almost 1 / `base` (theta): a larger base is for longer sequences.
    """
    half = width // 2
    return base ** (-jnp.arange(half, dtype=jnp.float32) / half)


def linear_rotary_frequencies(width: int, base: float, factor: float) -> jax.Array:
    """RoPE with linear scaling (position interpolation, Chen et al., 2023).

    All frequencies are divided by `factor`, so that sequences may be as many times longer.
    """
    return rotary_frequencies(width, base) / factor


def llama3_rotary_frequencies(
    width: int,
    base: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> jax.Array:
    """RoPE scaling of Llama 3.1 (Grattafiori et al., 2024), for longer sequences.

    Frequencies that turned less than `low_freq_factor` times within the original length are divided
    by `factor`, those that turned more than `high_freq_factor` times stay as they are, and those
    between are mixed of both.
    """
    frequencies = rotary_frequencies(width, base)
    turns = original_max_position_embeddings * frequencies / tau
    kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clip(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / factor
