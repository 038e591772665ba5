"""Images with places moved to channels and back."""

import jax

from jdl.errors import Error


def pixel_shuffle(x: jax.Array, times: int = 2) -> jax.Array:
    """x (B, H, W, times^2 C) to (B, times H, times W, C): each place becomes a square of places (Shi et al., 2016).

    A convolution before it does what a transposed convolution of that stride does, on fewer places.
    """
    rows, height, width, channels = x.shape
    squares = x.reshape(rows, height, width, times, times, channels // times**2)
    return squares.swapaxes(2, 3).reshape(rows, times * height, times * width, -1)


def pixel_unshuffle(x: jax.Array, times: int = 2) -> jax.Array:
    """The way back: x (B, times H, times W, C) to (B, H, W, times^2 C)."""
    rows, height, width, channels = x.shape
    if height % times or width % times:
        raise Error(
            f"Images of {height} x {width} cannot be cut into squares of {times} x {times}."
        )
    squares = x.reshape(rows, height // times, times, width // times, times, channels)
    return squares.swapaxes(2, 3).reshape(rows, height // times, width // times, -1)
