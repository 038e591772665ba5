"""Pixel shuffle and unshuffle: space moved to channels and back."""

import jax

from jdl.errors import Error


def pixel_shuffle(x: jax.Array, factor: int = 2) -> jax.Array:
    """Pixel shuffle, depth to space (Shi et al., 2016), for upsampling images by `factor`.

    x (B, H, W, factor^2 C) gives (B, factor H, factor W, C): each pixel becomes a square. Together
    with a convolution before it, it replaces a transposed convolution of that stride.
    """
    rows, height, width, channels = x.shape
    squares = x.reshape(rows, height, width, factor, factor, channels // factor**2)
    return squares.swapaxes(2, 3).reshape(rows, factor * height, factor * width, -1)


def pixel_unshuffle(x: jax.Array, factor: int = 2) -> jax.Array:
    """Pixel unshuffle, space to depth: x (B, factor H, factor W, C) to (B, H, W, factor^2 C).

    The inverse of `pixel_shuffle`; it also cuts an image into patches. Raises `Error` if the sides
    are not multiples of `factor`.
    """
    rows, height, width, channels = x.shape
    if height % factor or width % factor:
        raise Error(
            f"Images of {height} x {width} pixels cannot be cut into patches of "
            f"{factor} x {factor}: resize or pad the images, or choose another patch size."
        )
    squares = x.reshape(rows, height // factor, factor, width // factor, factor, channels)
    return squares.swapaxes(2, 3).reshape(rows, height // factor, width // factor, -1)
