"""Normalisation that padding does not disturb, nor the division of a batch among devices."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers.batch_axis import psum_batch


class LayerNorm(nn.LayerNorm):
    """`flax.linen.LayerNorm` (Ba et al., 2016): half precision is normalised in float32 and given back."""

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        """x (..., C) to the same shape and type."""
        with jax.numpy_dtype_promotion("standard"):  # it mixes types, which "strict" forbids
            return super().__call__(x, **options)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015) whose statistics come from the rows where `mask` (B,) holds.

    Sums and counts are taken over all devices, in float32, and divided once. Where no row holds, all are used, so that
    the output stays finite, and the carried statistics stay.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable[..., Any] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """x (B, ..., C) to the same shape and type."""
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        carried_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        carried_var = self.variable("batch_stats", "var", jnp.ones, channels)
        if train:
            mean, var, real = _statistics(x, mask)
            if not self.is_initializing():
                for carried, new in ((carried_mean, mean), (carried_var, var)):
                    moved = self.momentum * carried.value + (1 - self.momentum) * new
                    carried.value = jnp.where(real, moved, carried.value)
        else:
            mean, var = carried_mean.value, carried_var.value
        factor = scale.astype(jnp.float32) * jax.lax.rsqrt(var + self.epsilon)
        axes = (None,) * (x.ndim - 1)
        return (
            (x.astype(jnp.float32) - mean[axes]) * factor[axes] + bias.astype(jnp.float32)[axes]
        ).astype(x.dtype)


def _statistics(x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and variance (C,) over the rows that hold, and whether any does."""
    axes = tuple(range(x.ndim - 1))
    x = x.astype(jnp.float32)
    if mask is None:
        mask = jnp.ones(len(x), bool)
    mask = mask.astype(bool)
    real = psum_batch(mask.sum()) > 0
    weights = (mask | ~real).astype(jnp.float32).reshape((-1,) + (1,) * (x.ndim - 1))
    seen = jnp.where(weights > 0, x, 0)
    sums = (
        (weights * seen).sum(axes),
        (weights * seen * seen).sum(axes),
        weights.sum() * x[0, ..., 0].size,
    )
    total, squares, count = psum_batch(sums)
    mean = total / count
    return mean, jnp.maximum(squares / count - mean * mean, 0), real
