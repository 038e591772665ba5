"""Max and average pooling, with gradients that are fast on every platform."""

from __future__ import annotations

from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp

from jdl.layers.window import Pair, window_views


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, window: int | Pair = 2, stride: int | None = None) -> jax.Array:
    """Max pooling of x (B, H, W, C) over `window` x `window` squares, one every `stride` pixels.

    A window (rows, columns) is a rectangle. By default the stride is the window; rows and columns
    that fill no window are dropped.
    Equal to `flax.linen.max_pool`. The gradient of XLA's `reduce_window` costs more on a CPU than
    the convolutions around it, and has no deterministic form on a GPU; here it is a comparison and
    a division, in which equal maxima share the gradient evenly.
    """
    return reduce(jnp.maximum, _views(x, window, stride))


def avg_pool(x: jax.Array, window: int = 2, stride: int | None = None) -> jax.Array:
    """Average (mean) pooling over the same squares as `max_pool`.

    Equal to `flax.linen.avg_pool`, which refuses strict dtype promotion.
    """
    return reduce(add, _views(x, window, stride)) / window**2


def _views(x: jax.Array, window: int | Pair, stride: int | None) -> list[jax.Array]:
    sides = (window, window) if isinstance(window, int) else window
    return window_views(x, sides, (stride, stride) if stride else sides)


def _forward(
    x: jax.Array, window: int | Pair, stride: int | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    out = max_pool(x, window, stride)
    return out, (x, out)


def _backward(
    window: int | Pair, stride: int | None, residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array]:
    x, out = residuals
    views, views_vjp = jax.vjp(lambda x: _views(x, window, stride), x)
    ties = reduce(add, ((view == out).astype(x.dtype) for view in views))
    return views_vjp([jnp.where(view == out, grad / ties, 0) for view in views])


max_pool.defvjp(_forward, _backward)
