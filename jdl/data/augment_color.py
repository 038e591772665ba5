"""Data augmentation of the colors of images: color jitter, grayscale; and Gaussian blur."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import jax
import jax.numpy as jnp

from jdl.data.augment import UnitRange
from jdl.types import Array, Error, Key

LUMA = (0.2989, 0.587, 0.114)  # the weights of red, green and blue in brightness (ITU-R 601-2)


def color_jitter(
    brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
) -> UnitRange:
    """Color jitter: random brightness, contrast, saturation and hue of images x (H, W, C), 0 to 1.

    As in torchvision: the factors of brightness, contrast and saturation are drawn from max(0, 1 -
    strength) to 1 + strength, the turn of the hue from -`hue` to `hue` (0.5 is half of the color
    circle), and the four are applied in a random order. Gray images (H, W, 1) take brightness and
    contrast only.
    """
    given = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    if min(given.values()) < 0 or hue > 0.5:
        raise Error(
            f"color_jitter takes strengths of 0 or more, and hue up to 0.5; given: {given}."
        )
    adjust = {
        "brightness": adjust_brightness,
        "contrast": adjust_contrast,
        "saturation": adjust_saturation,
        "hue": adjust_hue,
    }
    used = [name for name in given if given[name]]
    low = [-hue if name == "hue" else max(0.0, 1 - given[name]) for name in used]
    high = [hue if name == "hue" else 1 + given[name] for name in used]

    def change(key: Key, x: Array) -> Array:
        if saturation or hue:
            _check_rgb("color_jitter of saturation or hue", x)
        order_key, factor_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(used))
        factors = jax.random.uniform(
            factor_key, (len(used),), x.dtype, jnp.asarray(low, x.dtype), jnp.asarray(high, x.dtype)
        )
        for n in range(len(used)):
            which = order[n]
            x = jax.lax.switch(which, [adjust[name] for name in used], x, factors[which])
        return x

    return UnitRange("color_jitter", change)


def random_grayscale(probability: float = 0.1) -> UnitRange:
    """Random grayscale: images x (H, W, 3) lose their color, with this probability."""

    def change(key: Key, x: Array) -> Array:
        _check_rgb("random_grayscale", x)
        return jnp.where(jax.random.bernoulli(key, probability), to_gray(x), x)

    return UnitRange("random_grayscale", change)


def gaussian_blur(size: int, sigma: tuple[float, float] = (0.1, 2.0)) -> UnitRange:
    """Gaussian blur of images x (H, W, C), by a kernel of `size` x `size` pixels, an odd number.

    Its standard deviation is drawn from the range `sigma`, in pixels. At the border the image is
    reflected.
    """
    if size % 2 == 0 or size < 1 or not 0 < sigma[0] <= sigma[1]:
        raise Error(
            "gaussian_blur takes an odd size of its kernel, and a range of standard deviations "
            f"above 0; given: {size=}, {sigma=}."
        )

    def change(key: Key, x: Array) -> Array:
        if min(x.shape[:2]) <= size // 2:
            raise Error(f"gaussian_blur of size {size} is too large for images of {x.shape}.")
        return blur(x, jax.random.uniform(key, (), x.dtype, *sigma), size)

    return UnitRange("gaussian_blur", change)


def blur(x: Array, sigma: Array, size: int) -> Array:
    """Gaussian blur of an image with the standard deviation `sigma`, in pixels."""
    half = size // 2
    weights = jnp.exp(-0.5 * (jnp.arange(-half, half + 1, dtype=x.dtype) / sigma) ** 2)
    weights = weights / weights.sum()
    height, width, _ = x.shape
    padded = jnp.pad(x, ((half, half), (half, half), (0, 0)), mode="reflect")
    rows = _sum(weights[n] * padded[n : n + height] for n in range(size))
    return _sum(weights[n] * rows[:, n : n + width] for n in range(size))


def adjust_brightness(x: Array, factor: Array) -> Array:
    """The image with its brightness times `factor`; 0 gives black."""
    return jnp.clip(x * factor, 0, 1)


def adjust_contrast(x: Array, factor: Array) -> Array:
    """The image with its differences from its mean brightness times `factor`."""
    return blend(x, jnp.full_like(x, to_gray(x)[..., 0].mean()), factor)


def adjust_saturation(x: Array, factor: Array) -> Array:
    """The image with its differences from its gray image times `factor`; 0 gives gray."""
    return blend(x, to_gray(x), factor)


def adjust_hue(x: Array, turn: Array) -> Array:
    """The image (H, W, 3) with its hue turned by a share of the color circle, from -0.5 to 0.5."""
    hue, saturation, value = _to_hsv(x)
    # Red, green and blue of a hue are the same function of it (a trapezoid), a third apart.
    sector = ((hue + turn) * 6)[..., None] + jnp.asarray([5, 3, 1], x.dtype)[None, None]
    sector = sector - 6 * jnp.floor(sector / 6)  # `mod`, which is no vector instruction on a CPU
    ramp = jnp.clip(jnp.minimum(sector, 4 - sector), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * ramp)


def _to_hsv(x: Array) -> tuple[Array, Array, Array]:
    """Hue, as a share of the color circle, saturation and value of an image (H, W, 3)."""
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value = x.max(-1)
    chroma = value - x.min(-1)
    divisor = jnp.where(chroma > 0, chroma, 1)
    sector = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    return sector / 6, chroma / jnp.where(value > 0, value, 1), value


def to_gray(x: Array) -> Array:
    """The brightness of an image of red, green and blue, in all of its channels."""
    if x.shape[-1] == 1:
        return x
    _check_rgb("A change of colors", x)
    gray = _sum(weight * x[..., n : n + 1] for n, weight in enumerate(LUMA))
    return jnp.broadcast_to(gray, x.shape)


def blend(x: Array, other: Array, factor: Array) -> Array:
    """The image x at factor 1, `other` at 0, and beyond x above 1; cut to 0 to 1."""
    return jnp.clip(factor * x + (1 - factor) * other, 0, 1)


def _sum(parts: Iterable[Array]) -> Array:
    return reduce(jnp.add, parts)


def _check_rgb(name: str, x: Array) -> None:
    if x.shape[-1] != 3:
        raise Error(
            f"{name} needs images of three channels, red, green and blue, but these have "
            f"{x.shape[-1]}: leave it out."
        )
