"""Sliding windows over images, as pooling and convolution read them."""

from itertools import product

import jax

Pair = tuple[int, int]


def window_views(x: jax.Array, window: Pair, strides: Pair) -> list[jax.Array]:
    """Strided views of x (B, H, W, C), one for each pixel of a sliding window, row by row.

    View (i, j) has the pixel (i, j) of every window: (B, h, w, C), for h times w windows.
    """
    (rows, columns), (down, right) = window, strides
    height = (x.shape[1] - rows) // down * down + 1
    width = (x.shape[2] - columns) // right * right + 1
    return [
        x[:, i : i + height : down, j : j + width : right]
        for i, j in product(range(rows), range(columns))
    ]
