"""The dense (fully connected, linear) layer over the last axis, as one product of two matrices."""

import flax.linen as nn
import jax


class Dense(nn.Dense):
    """Dense (fully connected, linear) layer, `flax.linen.Dense`: x (..., F) to (..., features).

    All axes but the last are flattened first. Otherwise XLA's CPU backend fuses the operations
    around the product into its operands and recomputes them for each use: a feed-forward block with
    GELU took 75 ms instead of 25 ms.
    """

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """x (..., F) to (..., features)."""
        out = super().__call__(inputs.reshape(-1, inputs.shape[-1]))
        return out.reshape(*inputs.shape[:-1], self.features)
