"""Matrix factorization: a vector for each user and for each item."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class MatrixFactorization(nn.Module):
    """Matrix factorization (Koren et al., 2009): users (B,) to the scores of all items (B, items).

    A score is the dot product of the user's vector and the item's, plus the item's bias.
    `candidates` are items whose scores are wanted alone: of (B, T, K) they are (B, T, K), and of
    (K,), the same for all users, (B, K).
    """

    users: int
    items: int
    width: int = 32

    @nn.compact
    def __call__(self, user: jax.Array, candidates: jax.Array | None = None) -> jax.Array:
        """Users (B,) to scores as in the class."""
        init = nn.initializers.normal(self.width**-0.5)
        users = self.param("users", init, (self.users, self.width))
        items = self.param("items", init, (self.items, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.items,))
        vectors = users[user]
        if candidates is not None and candidates.ndim == 1:
            items, bias, candidates = items[candidates], bias[candidates], None
        if candidates is None:
            return (vectors @ items.T + bias[None]).astype(jnp.float32)
        scores = jnp.einsum("bd,btkd->btk", vectors, items[candidates])
        return (scores + bias[candidates]).astype(jnp.float32)
