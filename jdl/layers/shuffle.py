"""Images made larger by moving channels to places."""

import jax


def doubled(x: jax.Array) -> jax.Array:
    """x (B, H, W, 4 C) to (B, 2 H, 2 W, C): each place becomes a square of four (Shi et al., 2016).

    A convolution before it does what a transposed convolution of stride 2 does, on a quarter of the places.
    """
    rows, height, width, channels = x.shape
    squares = x.reshape(rows, height, width, 2, 2, channels // 4)
    return squares.swapaxes(2, 3).reshape(rows, 2 * height, 2 * width, channels // 4)
