"""The windows of an image, as pooling and convolution move them."""

from itertools import product

import jax

Pair = tuple[int, int]


def views(x: jax.Array, window: Pair, strides: Pair) -> list[jax.Array]:
    """For each place in a window, row by row, what all of the windows of x (B, H, W, C) have there: (B, h, w, C)."""
    (rows, columns), (down, right) = window, strides
    height, width = (
        (x.shape[1] - rows) // down * down + 1,
        (x.shape[2] - columns) // right * right + 1,
    )
    return [
        x[:, i : i + height : down, j : j + width : right]
        for i, j in product(range(rows), range(columns))
    ]
