"""Pooling whose gradient is fast on every platform."""

from __future__ import annotations

from functools import partial, reduce
from itertools import product
from operator import add

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, window: int = 2) -> jax.Array:
    """The greatest of each `window` x `window` square of x (B, H, W, C), squares side by side; rests are dropped.

    Equal to `flax.linen.max_pool` with equal strides. The gradient of XLA's `reduce_window` costs more than the
    convolutions around it on a CPU, and has no deterministic form on a GPU; here it is a comparison and a division,
    by which equal greatest values share the gradient evenly.
    """
    return reduce(jnp.maximum, _corners(x, window))


def _corners(x: jax.Array, window: int) -> list[jax.Array]:
    """For each place in a square, the values of all of the squares there: (B, H / window, W / window, C) each."""
    height, width = (side // window * window for side in x.shape[1:3])
    return [x[:, i:height:window, j:width:window] for i, j in product(range(window), repeat=2)]


def _forward(x: jax.Array, window: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    greatest = max_pool(x, window)
    return greatest, (x, greatest)


def _backward(window: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    x, greatest = kept
    ties = reduce(add, ((corner == greatest).astype(x.dtype) for corner in _corners(x, window)))

    def spread(pooled: jax.Array) -> jax.Array:
        b, h, w, c = pooled.shape
        squares = jnp.broadcast_to(pooled[:, :, None, :, None], (b, h, window, w, window, c))
        rest = [(0, side - n * window) for side, n in zip(x.shape[1:3], (h, w), strict=True)]
        return jnp.pad(squares.reshape(b, h * window, w * window, c), ((0, 0), *rest, (0, 0)))

    return (jnp.where(x == spread(greatest), spread(gradient / ties), 0),)


max_pool.defvjp(_forward, _backward)
