"""The two-tower model of recommendation: a tower of users by their items, and one of items."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdl.errors import Error
from jdl.layers import Dense
from jdl.models.mlp import MLP
from jdl.models.transformer import as_time_mask


class TwoTowers(nn.Module):
    """Two-tower model (Yi et al., 2019): a user's items (B, T) to the scores of all items as next.

    A score is the dot product of the user's vector and the item's. The item tower is an embedding.
    With `features` (items, F), numbers that describe each item, it adds a linear function of them,
    and the embeddings begin at zero: so an item without training (cold start) has the vector of its
    features. The user tower takes the mean of the vectors of the items up to t, and adds an MLP of
    that mean with the layers `hidden`; what comes after t it does not see. `candidates`, (B, T, K)
    or for all alike (K,), are items whose scores are wanted alone, (B, T, K).
    """

    items: int
    width: int = 64
    hidden: Sequence[int] = ()
    dropout: float = 0.0
    features: np.ndarray | None = None

    __eq__, __hash__ = object.__eq__, object.__hash__  # an array of features has no hash

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
        candidates: jax.Array | None = None,
    ) -> jax.Array:
        """Items (B, T) and which of them are real, (B, T), to scores as in the class."""
        embed = ItemTower(self.items, self.width, self.features, name="item_tower")
        history = embed(x)
        real = as_time_mask(mask)
        real = jnp.ones(x.shape, bool) if real is None else real
        weights = real[..., None].astype(jnp.float32)  # bfloat16 counts to 256
        mean = jnp.cumsum(weights * history.astype(jnp.float32), 1)
        mean = (mean / jnp.cumsum(weights, 1).clip(1)).astype(history.dtype)
        tower = MLP(self.width, self.hidden, dropout=self.dropout, name="user_tower")
        users = mean + tower(mean.reshape(-1, self.width), train).reshape(mean.shape)
        items = embed(jnp.arange(self.items) if candidates is None else candidates)
        return jnp.einsum("...d,...kd->...k", users, items).astype(jnp.float32)


class ItemTower(nn.Module):
    """The item tower: items (...) to vectors (..., width), of their numbers and features."""

    items: int
    width: int
    features: np.ndarray | None = None

    @nn.compact
    def __call__(self, items: jax.Array) -> jax.Array:
        """Items (...) to vectors (..., width)."""
        plain = self.features is None
        init = nn.initializers.normal(self.width**-0.5) if plain else nn.initializers.zeros
        table = self.param("table", init, (self.items, self.width))
        if plain:
            return table[items]
        features = np.asarray(self.features)
        if features.ndim != 2 or len(features) != self.items:
            raise Error(
                f"features are of shape {features.shape}, and must be ({self.items}, F), a row of "
                "numbers for each item (of a sparse matrix: features.toarray())."
            )
        linear = Dense(self.width, use_bias=False, name="features")
        return (table + linear(jnp.asarray(features, table.dtype)))[items]
