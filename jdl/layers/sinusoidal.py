"""Sinusoidal embeddings of times."""

import math

import jax
import jax.numpy as jnp


def sinusoidal_embedding(t: jax.Array, width: int) -> jax.Array:
    """Sinusoidal embedding (Vaswani et al., 2017): times t (B,) from 0 to 1 to (B, width).

    Cosines, then sines, of t times `width` / 2 frequencies that grow geometrically from 1 to
    10,000. `width` is even.
    """
    half = width // 2
    frequencies = jnp.exp(
        math.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / max(half - 1, 1)
    )
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1).astype(t.dtype)
