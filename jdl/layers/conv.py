"""Convolution whose gradient is fast on a CPU."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jdl.layers.window import Pair, views

LAYOUT = ("NHWC", "HWIO", "NHWC")
CHUNK_BYTES = 1 << 22  # of windows and outputs that the kernel's gradient takes at a time, to stay in the cache


def convolution(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`lax.conv_general_dilated`, for `flax.linen.Conv(conv_general_dilated=...)`.

    XLA's gradient of the kernel on a CPU is a convolution whose window is the whole image: for 2-D convolutions without
    dilation, it is replaced by products over a few images at a time. A depthwise convolution, which XLA does one
    channel at a time there, becomes a sum of shifted images. docs/speed.md has figures; small images gain nothing, and
    are left to XLA.
    """
    groups = options.get("feature_group_count", 1)
    large = groups == 1 and x.shape[1] * x.shape[2] >= 49
    depthwise = groups == x.shape[-1] == kernel.shape[-1]
    ours = (
        kernel.ndim == x.ndim == 4
        and (large or depthwise)
        and set(options.get("lhs_dilation") or {1}) | set(options.get("rhs_dilation") or {1}) == {1}
        and options.get("precision") is None
    )
    if not ours:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return _ours(x, kernel, strides, padding)


def _plain(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    groups = x.shape[-1] // kernel.shape[2]

    def by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=LAYOUT, feature_group_count=groups
        )

    def by_views(x: jax.Array, kernel: jax.Array) -> jax.Array:
        seen = views(_padded(x, padding), (kernel.shape[0], kernel.shape[1]), strides)
        weights = kernel.reshape(-1, 1, 1, 1, groups)
        return reduce(add, (view * weight for view, weight in zip(seen, weights, strict=True)))

    return by_xla(x, kernel) if groups == 1 else lax.platform_dependent(x, kernel, cpu=by_views, default=by_xla)


_ours = jax.custom_vjp(_plain, nondiff_argnums=(2, 3))


def _padded(x: jax.Array, padding: tuple[Pair, Pair]) -> jax.Array:
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))


def _forward(x: jax.Array, kernel: jax.Array, *how: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(x, kernel, *how), (x, kernel)


def _backward(
    strides: Pair, padding: tuple[Pair, Pair], kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept

    def by_xla(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda kernel: _plain(x, kernel, strides, padding), kernel)(gradient)[0]

    def by_products(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return _kernel_gradient(_padded(x, padding), gradient, kernel.shape, strides)

    (of_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, strides, padding), x)(gradient)
    return of_x, lax.platform_dependent(x, gradient, cpu=by_products, default=by_xla)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, shape: tuple[int, ...], strides: Pair) -> jax.Array:
    """The gradients times the windows that they look at, summed chunk by chunk of the images."""
    images, height, width, outputs = gradient.shape
    rows, columns, inputs, _ = shape
    depthwise = inputs != x.shape[-1]
    seen = rows * columns * x.shape[-1]
    most = max(1, CHUNK_BYTES // (4 * height * width * (seen + outputs)))
    chunk = next(n for n in range(min(most, images), 0, -1) if images % n == 0)

    def product(x: jax.Array, gradient: jax.Array) -> jax.Array:
        """(outputs, rows * columns * inputs) of one chunk."""
        places = views(x, (rows, columns), strides)
        if depthwise:
            return jnp.stack([(place * gradient).sum((0, 1, 2)) for place in places], 1)
        return gradient.reshape(-1, outputs).T @ jnp.concatenate(places, -1).reshape(-1, seen)

    def add_chunk(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + product(*part), None

    parts = x.reshape(-1, chunk, *x.shape[1:]), gradient.reshape(-1, chunk, *gradient.shape[1:])
    total = lax.scan(add_chunk, jnp.zeros((outputs, rows * columns * inputs), x.dtype), parts)[0]
    return total.T.reshape(shape)


_ours.defvjp(_forward, _backward)
