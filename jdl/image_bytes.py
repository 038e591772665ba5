"""Images of bytes: the columns that batches have as numbers from 0 to 1."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_image(name: str, column: Any) -> bool:
    """Whether a column holds images of bytes, uint8 (N, H, W, C) or of more axes, and is no target.

    In batches they become float32 from 0 to 1.
    """
    return name != "y" and column.dtype == np.uint8 and column.ndim >= 4


def rescale(name: str, column: Any) -> Any:
    """Images of bytes as float32 from 0 to 1; any other column as it is."""
    if not is_image(name, column):
        return column
    if isinstance(column, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(column.shape, jnp.float32)
    # A product, because XLA may compile a division to this product or not: the bits would differ.
    return column.astype(jnp.float32) * np.float32(1 / 255)
