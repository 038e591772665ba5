"""2-D convolution, also depthwise, whose gradient is fast on CPUs.

XLA's CPU backend rewrites convolutions into the one form that has a fast kernel (NHWC images, HWIO
kernels, nothing reversed) only at the top level of a program, not within loops: there, the
gradients that JAX derives were 4 and 40 times slower (jax 0.10.2). So they are written in that form
here; at the top level of a program the results have the same bits.
"""

from __future__ import annotations

from functools import partial, reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jdl.layers.platform import platform_dependent
from jdl.layers.window import Pair, window_views

LAYOUT = ("NHWC", "HWIO", "NHWC")
LARGE_IMAGE = 49  # in pixels; below it, XLA's gradient of the kernel is as fast as matrix products
# Size of the windows and outputs in one chunk of the kernel's gradient: it fits in a CPU's cache.
CHUNK_BYTES = 1 << 22


def convolution(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """2-D convolution: `lax.conv_general_dilated`, for `flax.linen.Conv(conv_general_dilated=...)`.

    On CPUs, XLA's gradient of the kernel is a convolution whose window is the whole image: except
    for small images, it is replaced by matrix products over a few images at a time. A depthwise
    convolution, which XLA computes there one channel at a time, becomes a sum of shifted images.
    docs/speed.md has the measurements. Dilated (atrous) and other grouped convolutions are left to
    XLA.
    """
    groups = options.get("feature_group_count", 1)
    depthwise = groups == x.shape[-1] == kernel.shape[-1]
    rewritten = (
        kernel.ndim == x.ndim == 4
        and (groups == 1 or depthwise)
        and set(options.get("lhs_dilation") or {1}) | set(options.get("rhs_dilation") or {1}) == {1}
        and options.get("precision") is None
    )
    if not rewritten:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return _convolve_with_vjp(x, kernel, strides, padding)


def _convolve(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]
) -> jax.Array:
    """The convolution itself; a depthwise one has kernels (h, w, 1, C)."""
    groups = x.shape[-1] // kernel.shape[2]

    def by_xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=LAYOUT, feature_group_count=groups
        )

    def by_shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
        views = window_views(_pad(x, padding), (kernel.shape[0], kernel.shape[1]), strides)
        weights = kernel.reshape(-1, 1, 1, 1, groups)
        return reduce(add, (view * weight for view, weight in zip(views, weights, strict=True)))

    if groups == 1:
        return by_xla(x, kernel)
    return platform_dependent(x, kernel, cpu=by_shifts, default=by_xla)


_convolve_with_vjp = jax.custom_vjp(_convolve, nondiff_argnums=(2, 3))


def _pad(x: jax.Array, padding: tuple[Pair, Pair]) -> jax.Array:
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))


def _forward(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, strides, padding), (x, kernel)


def _backward(
    strides: Pair,
    padding: tuple[Pair, Pair],
    residuals: tuple[jax.Array, jax.Array],
    grad: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    depthwise = kernel.shape[2] != x.shape[-1]

    def grad_x_by_xla(kernel: jax.Array, grad: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: _convolve(x, kernel, strides, padding), x)(grad)[0]

    def grad_kernel_by_xla(x: jax.Array, grad: jax.Array) -> jax.Array:
        convolve = partial(_convolve, x, strides=strides, padding=padding)
        return jax.linear_transpose(convolve, kernel)(grad)[0]

    def grad_x_on_cpu(kernel: jax.Array, grad: jax.Array) -> jax.Array:
        return _image_gradient(kernel, grad, x.shape, strides, padding)

    def grad_kernel_on_cpu(x: jax.Array, grad: jax.Array) -> jax.Array:
        if depthwise or x.shape[1] * x.shape[2] >= LARGE_IMAGE:
            return _kernel_gradient_by_products(_pad(x, padding), grad, kernel.shape, strides)
        return _kernel_gradient_by_convolution(x, grad, kernel.shape, strides, padding)

    grad_x = platform_dependent(
        kernel, grad, cpu=grad_x_by_xla if depthwise else grad_x_on_cpu, default=grad_x_by_xla
    )
    return grad_x, platform_dependent(x, grad, cpu=grad_kernel_on_cpu, default=grad_kernel_by_xla)


def _image_gradient(
    kernel: jax.Array,
    grad: jax.Array,
    shape: tuple[int, ...],
    strides: Pair,
    padding: tuple[Pair, Pair],
) -> jax.Array:
    """The gradient of images of this shape: the transposed convolution of the outputs' gradient."""
    pads = []
    for n in range(2):
        before = kernel.shape[n] - 1 - padding[n][0]
        dilated = (grad.shape[n + 1] - 1) * strides[n] + 1
        pads.append((before, shape[n + 1] + padding[n][0] - dilated))
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    return lax.conv_general_dilated(
        grad, flipped, (1, 1), pads, lhs_dilation=strides, dimension_numbers=LAYOUT
    )


def _kernel_gradient_by_convolution(
    x: jax.Array,
    grad: jax.Array,
    shape: tuple[int, ...],
    strides: Pair,
    padding: tuple[Pair, Pair],
) -> jax.Array:
    """The gradient of a kernel of this shape as one convolution, in which channels are the batch.

    The images (C, H, W, B) are convolved with the outputs' gradients (h, w, B, outputs).
    """
    pads = []
    for n in range(2):
        dilated = (grad.shape[n + 1] - 1) * strides[n] + 1
        pads.append((padding[n][0], dilated + shape[n] - 1 - x.shape[n + 1] - padding[n][0]))
    grad_kernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        grad.transpose(1, 2, 0, 3),
        (1, 1),
        pads,
        rhs_dilation=strides,
        dimension_numbers=LAYOUT,
    )
    return grad_kernel.transpose(1, 2, 0, 3)


def _kernel_gradient_by_products(
    x: jax.Array, grad: jax.Array, shape: tuple[int, ...], strides: Pair
) -> jax.Array:
    """The gradient of a kernel of this shape as products with windows (im2col).

    x (B, H, W, C) is already padded; the images are processed in chunks of a few.
    """
    images, height, width, outputs = grad.shape
    rows, columns, inputs, _ = shape
    depthwise = inputs != x.shape[-1]
    window = rows * columns * x.shape[-1]
    most = max(1, CHUNK_BYTES // (4 * height * width * (window + outputs)))
    chunk = next(n for n in range(min(most, images), 0, -1) if images % n == 0)

    def product(x: jax.Array, grad: jax.Array) -> jax.Array:
        """(outputs, rows * columns * inputs) of one chunk."""
        views = window_views(x, (rows, columns), strides)
        if depthwise:
            return jnp.stack([(view * grad).sum((0, 1, 2)) for view in views], 1)
        return grad.reshape(-1, outputs).T @ jnp.concatenate(views, -1).reshape(-1, window)

    def add_chunk(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + product(*part), None

    chunks = x.reshape(-1, chunk, *x.shape[1:]), grad.reshape(-1, chunk, *grad.shape[1:])
    total = lax.scan(add_chunk, jnp.zeros((outputs, rows * columns * inputs), x.dtype), chunks)[0]
    return total.T.reshape(shape)


_convolve_with_vjp.defvjp(_forward, _backward)
