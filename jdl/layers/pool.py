"""Pooling whose gradient is fast on every platform."""

from __future__ import annotations

from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp

from jdl.layers.window import views


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, window: int = 2, stride: int | None = None) -> jax.Array:
    """The greatest of each `window` x `window` square of x (B, H, W, C), one every `stride` places; rests are dropped.

    Equal to `flax.linen.max_pool`; without a stride, squares lie side by side. The gradient of XLA's `reduce_window`
    costs more than the convolutions around it on a CPU, and has no deterministic form on a GPU; here it is a
    comparison and a division, by which equal greatest values share the gradient evenly.
    """
    return reduce(jnp.maximum, _corners(x, window, stride))


def mean_pool(x: jax.Array, window: int = 2, stride: int | None = None) -> jax.Array:
    """The mean of each square, as `max_pool` cuts them; `flax.linen.avg_pool`, which refuses strict promotion."""
    return reduce(add, _corners(x, window, stride)) / window**2


def _corners(x: jax.Array, window: int, stride: int | None) -> list[jax.Array]:
    return views(x, (window, window), (stride or window,) * 2)


def _forward(
    x: jax.Array, window: int, stride: int | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    greatest = max_pool(x, window, stride)
    return greatest, (x, greatest)


def _backward(
    window: int, stride: int | None, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    x, greatest = kept
    corners, to_x = jax.vjp(lambda x: _corners(x, window, stride), x)
    ties = reduce(add, ((corner == greatest).astype(x.dtype) for corner in corners))
    return to_x([jnp.where(corner == greatest, gradient / ties, 0) for corner in corners])


max_pool.defvjp(_forward, _backward)
