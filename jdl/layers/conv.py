"""Convolution whose gradient is fast on a CPU.

XLA's CPU backend brings convolutions into the one form that has a fast kernel (NHWC images, HWIO kernels, nothing
reversed) at the top of a program only, and not within loops: there, the gradients that JAX derives were 4 and 40 times
slower (jax 0.10.2). So they are written in that form here, with the same bits at the top.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jdl.layers.window import Pair, views

LAYOUT = ("NHWC", "HWIO", "NHWC")
LARGE = 49  # pixels; of smaller images XLA's gradient of the kernel is as fast as products
CHUNK_BYTES = (
    1 << 22
)  # of windows and outputs that the kernel's gradient takes at a time, to stay in the cache


def convolution(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """`lax.conv_general_dilated`, for `flax.linen.Conv(conv_general_dilated=...)`.

    XLA's gradient of the kernel on a CPU is a convolution whose window is the whole image: for 2-D convolutions without
    dilation, it is replaced by products over a few images at a time, unless these are small. A depthwise convolution,
    which XLA does one channel at a time there, becomes a sum of shifted images. docs/speed.md has figures. Dilated and
    other grouped convolutions are left to XLA.
    """
    groups = options.get("feature_group_count", 1)
    depthwise = groups == x.shape[-1] == kernel.shape[-1]
    ours = (
        kernel.ndim == x.ndim == 4
        and (groups == 1 or depthwise)
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

    return (
        by_xla(x, kernel)
        if groups == 1
        else lax.platform_dependent(x, kernel, cpu=by_views, default=by_xla)
    )


_ours = jax.custom_vjp(_plain, nondiff_argnums=(2, 3))


def _padded(x: jax.Array, padding: tuple[Pair, Pair]) -> jax.Array:
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))


def _forward(
    x: jax.Array, kernel: jax.Array, *how: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(x, kernel, *how), (x, kernel)


def _backward(
    strides: Pair,
    padding: tuple[Pair, Pair],
    kept: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    depthwise = kernel.shape[2] != x.shape[-1]
    large = x.shape[1] * x.shape[2] >= LARGE

    def of_x_by_xla(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: _plain(x, kernel, strides, padding), x)(gradient)[0]

    def of_x_on_cpu(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
        return _image_gradient(kernel, gradient, x.shape, strides, padding)

    def by_xla(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda kernel: _plain(x, kernel, strides, padding), kernel)(
            gradient
        )[0]

    def by_products(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return _kernel_gradient(_padded(x, padding), gradient, kernel.shape, strides)

    def by_images(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return _small_kernel_gradient(x, gradient, kernel.shape, strides, padding)

    of_x_there = of_x_by_xla if depthwise else of_x_on_cpu
    there = by_products if large or depthwise else by_images
    of_x = lax.platform_dependent(kernel, gradient, cpu=of_x_there, default=of_x_by_xla)
    return of_x, lax.platform_dependent(x, gradient, cpu=there, default=by_xla)


def _image_gradient(
    kernel: jax.Array,
    gradient: jax.Array,
    shape: tuple[int, ...],
    strides: Pair,
    padding: tuple[Pair, Pair],
) -> jax.Array:
    """The gradient of images of this shape: that of the outputs, spread by the strides, under the turned kernel."""
    pads = []
    for n in range(2):
        before = kernel.shape[n] - 1 - padding[n][0]
        pads.append(
            (before, shape[n + 1] + padding[n][0] - ((gradient.shape[n + 1] - 1) * strides[n] + 1))
        )
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return lax.conv_general_dilated(
        gradient, turned, (1, 1), pads, lhs_dilation=strides, dimension_numbers=LAYOUT
    )


def _small_kernel_gradient(
    x: jax.Array,
    gradient: jax.Array,
    shape: tuple[int, ...],
    strides: Pair,
    padding: tuple[Pair, Pair],
) -> jax.Array:
    """XLA's gradient of the kernel: each channel of the images, under the gradients as a kernel of as many channels."""
    pads = []
    for n in range(2):
        seen = (gradient.shape[n + 1] - 1) * strides[n] + 1
        pads.append((padding[n][0], seen + shape[n] - 1 - x.shape[n + 1] - padding[n][0]))
    found = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        (1, 1),
        pads,
        rhs_dilation=strides,
        dimension_numbers=LAYOUT,
    )
    return found.transpose(1, 2, 0, 3)


def _kernel_gradient(
    x: jax.Array, gradient: jax.Array, shape: tuple[int, ...], strides: Pair
) -> jax.Array:
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
