"""Convolution whose gradient is fast on a CPU."""

from __future__ import annotations

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")
CHUNK_BYTES = 1 << 20  # of inputs and outputs that the kernel's gradient takes at a time, to stay in the cache


def convolution(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`lax.conv_general_dilated`, for `flax.linen.Conv(conv_general_dilated=...)`.

    Where it is the plain case (2-D, "SAME", odd kernel, no strides, dilation or groups), XLA's gradient of the kernel
    on a CPU, a convolution whose window is the whole image, is replaced by matrix products over a few images at a
    time; docs/speed.md has what it gains. Few channels and small images gain nothing, and are left to XLA.
    """
    plain = (
        kernel.ndim == x.ndim == 4
        and x.shape[-1] >= 16
        and x.shape[1] * x.shape[2] >= 128
        and padding == "SAME"
        and all(side % 2 for side in kernel.shape[:2])
        and set(strides) == {1}
        and set(options.get("lhs_dilation") or {1}) | set(options.get("rhs_dilation") or {1}) == {1}
        and options.get("feature_group_count", 1) == 1
        and options.get("precision") is None
    )
    return _same(x, kernel) if plain else lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


_same = jax.custom_vjp(_plain)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(x, kernel), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept

    def by_xla(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda kernel: _plain(x, kernel), kernel)(gradient)[0]

    def by_products(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return _kernel_gradient(x, gradient, kernel.shape)

    (of_x,) = jax.linear_transpose(lambda x: _plain(x, kernel), x)(gradient)
    return of_x, lax.platform_dependent(x, gradient, cpu=by_products, default=by_xla)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """For each place (i, j) of the kernel, the inputs seen from there times the gradients, summed chunk by chunk."""
    rows, columns, inputs, outputs = shape
    images, height, width, _ = x.shape
    most = max(1, CHUNK_BYTES // (4 * height * width * (inputs + outputs)))
    chunk = next(n for n in range(min(most, images), 0, -1) if images % n == 0)
    x = jnp.pad(x, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))

    def add_chunk(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, gradient = part
        seen = (x[:, i : i + height, j : j + width] for i, j in product(range(rows), range(columns)))
        return total + jnp.stack([view.reshape(-1, inputs).T @ gradient for view in seen]), None

    parts = x.reshape(-1, chunk, *x.shape[1:]), gradient.reshape(-1, chunk * height * width, outputs)
    total = jnp.zeros((rows * columns, inputs, outputs), x.dtype)
    return lax.scan(add_chunk, total, parts)[0].reshape(shape)


_same.defvjp(_forward, _backward)
