"""Mixture of experts: a feed-forward layer for each of a few kinds of tokens."""

from __future__ import annotations

from math import ceil

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.models.transformer_config import TransformerConfig
from jdl.patterns import BALANCE_BIAS


class MixtureOfExperts(nn.Module):
    """Mixture of experts, MoE (Shazeer et al., 2017): each token to its top-k of several experts.

    The experts are feed-forward layers. A router, a dense layer in float32, scores them for each
    token; the `experts_per_token` best work on it, and their outputs are summed with the softmax of
    their scores as weights (Mixtral; Jiang et al., 2024). One alone has its probability among all
    experts as weight (Switch transformer; Fedus et al., 2022). In training an expert takes no more
    tokens of a row than its capacity, so that shapes are static (GShard; Lepikhin et al., 2021):
    the first ones in the row's order, and what comes later passes it by (dropped tokens). So rows
    do not depend on each other, nor steps on later ones. In evaluation none is dropped, for the
    price of all experts' work on all tokens.

    Sown for each row (B,), where the collection "intermediates" is mutable, and summed over real
    tokens alone: `balance`, the load-balancing loss of the Switch transformer, 1 where all experts
    have the same load, and `dropped`, the share of the row's choices that were dropped.
    `next_token` adds the one to its loss and shows both.

    With `balance_bias` experts are balanced without that loss (auxiliary-loss-free load balancing;
    Wang et al., 2024; DeepSeek-V3): a bias for each expert is added to the router's probabilities,
    for the choice alone. Its gradient is the expert's load above the mean (in choices of real
    tokens, times the number of experts): whole numbers, in float32 in mixed precision too, whose
    sum over micro-batches and devices is exact below 2^24. `jdl.optim.balance_experts` moves it by
    its sign. It is sown as `load_error`, the sum of 0 for each row with this gradient, for
    `next_token` to add to its loss; to train with an objective that does not read it is refused.
    """

    config: TransformerConfig
    expert: type[nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
        """x (B, T, width) to the same shape; the mask (B, T) says which steps are real."""
        c, (rows, steps, width) = self.config, x.shape
        router = nn.Dense(c.experts, use_bias=False, name="router", dtype=jnp.float32)
        scores = router(x.astype(jnp.float32))
        chosen_scores, chosen = jax.lax.top_k(scores, c.experts_per_token)  # (B, T, k)
        if c.balance_bias:
            bias = self.param(BALANCE_BIAS, nn.initializers.zeros, (c.experts,))
            biased = jax.nn.softmax(scores) + bias.astype(jnp.float32)[None, None]
            _, chosen = jax.lax.top_k(jax.lax.stop_gradient(biased), c.experts_per_token)
            chosen_scores = jnp.take_along_axis(scores, chosen, -1)
        weights = jax.nn.softmax(chosen_scores)
        if c.experts_per_token == 1:  # that is 1, and the loss would not teach the router
            weights = jnp.take_along_axis(jax.nn.softmax(scores), chosen, -1)
        real = jnp.ones((rows, steps), bool) if mask is None else mask.astype(bool)
        takes = jax.nn.one_hot(chosen, c.experts, dtype=jnp.int32)
        takes = jnp.where(real[..., None, None], takes, 0)
        if c.balance_bias:
            self._sow_load_error(takes.sum((1, 2)), bias.astype(jnp.float32), train)

        capacity = steps
        if train:
            share = steps * c.experts_per_token / c.experts
            capacity = min(steps, ceil(c.capacity_factor * share))
        # The place of each choice among its expert's, in the order of the row.
        flat = takes.reshape(rows, -1, c.experts)
        place = ((flat.cumsum(1) - 1) * flat).sum(-1).reshape(chosen.shape)
        kept = (place < capacity) & real[..., None]
        place = jnp.where(kept, place, capacity)  # beyond the end: dropped
        self._sow(scores, takes, kept, real)

        row = jnp.arange(rows)[:, None, None]
        inputs = jnp.zeros((rows, c.experts, capacity, width), x.dtype)
        inputs = inputs.at[row, chosen, place].set(x[:, :, None], mode="drop")
        experts = nn.vmap(
            self.expert,
            in_axes=1,
            out_axes=1,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )(c, name="experts")
        outputs = experts(inputs).at[row, chosen, place].get(mode="fill", fill_value=0)
        return (outputs * weights[..., None].astype(x.dtype)).sum(2)

    def _sow(self, scores: jax.Array, takes: jax.Array, kept: jax.Array, real: jax.Array) -> None:
        """Sows the load-balancing loss and the share of dropped choices of each row (B,)."""
        c, count = self.config, jnp.maximum(real.sum(1), 1).astype(jnp.float32)
        load = takes.sum((1, 2)).astype(jnp.float32) / (count * c.experts_per_token)[:, None]
        probability = (jax.nn.softmax(scores) * real[..., None].astype(jnp.float32)).sum(1) / count[
            :, None
        ]
        dropped = (real[..., None] & ~kept).astype(jnp.float32).sum((1, 2))
        self.sow("intermediates", "balance", c.experts * (load * probability).sum(-1))
        self.sow("intermediates", "dropped", dropped / (count * c.experts_per_token))

    def _sow_load_error(self, load: jax.Array, bias: jax.Array, train: bool) -> None:
        """Sows 0 for each row; its gradient for the bias is the error of the row's load (B, E)."""
        read = self.is_initializing() or self.is_mutable_collection("intermediates")
        if train and not read:
            raise Error(
                "The biases of experts are moved by loads that next_token alone reads, and this "
                "objective leaves them at 0: leave out balance_bias."
            )
        error = (self.config.experts * load - load.sum(1, keepdims=True)).astype(jnp.float32)
        moved = bias - jax.lax.stop_gradient(bias)
        self.sow("intermediates", "load_error", (error * moved[None]).sum(1))
