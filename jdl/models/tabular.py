"""Tabular models: an MLP of numbers and of embedded categories."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.models.mlp import MLP


class TabularMLP(nn.Module):
    """MLP with entity embeddings (Guo and Berkhahn, 2016): x (B, F), codes (B, C) to (B, outputs).

    `sizes` has the number of codes of each column of `codes`. Each category is embedded in
    `embedding_width` numbers, by default min(50, (size + 1) // 2); x and the embeddings, side by
    side, go through an MLP. The embedding of code 0, a value that training never has, is 0.
    """

    outputs: int
    sizes: Sequence[int]
    embedding_width: int | None = None
    hidden: Sequence[int] = (128, 64)
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        codes: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """x (B, F) and codes (B, C) to (B, outputs)."""
        parts = [x]
        for n, size in enumerate(self.sizes):
            width = self.embedding_width or min(50, (size + 1) // 2)
            embedding = nn.Embed(size, width, embedding_init=_zero_first_row, name=f"embed_{n}")
            parts.append(embedding(codes[:, n]).astype(x.dtype))
        x = jnp.concatenate(parts, axis=-1)
        return MLP(self.outputs, self.hidden, self.activation, self.dropout)(x, train)


def _zero_first_row(key: jax.Array, shape: tuple[int, ...], dtype: object = jnp.float32) -> object:
    """Normal with standard deviation 1 / sqrt(width), but for row 0, which is 0."""
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    return init(key, shape, dtype).at[0].set(0.0)
