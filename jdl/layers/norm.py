"""Layer, RMS, group and batch normalization; the last ignores padding and syncs over devices."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers.batch_axis import psum_batch


class LayerNorm(nn.LayerNorm):
    """Layer normalization (Ba et al., 2016): `flax.linen.LayerNorm`, computed in float32."""

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        """x (..., C) to the same shape and dtype."""
        with jax.numpy_dtype_promotion("standard"):  # it mixes dtypes, which "strict" forbids
            return super().__call__(x, **options)


class RMSNorm(nn.RMSNorm):
    """RMS normalization, RMSNorm (Zhang and Sennrich, 2019): `flax.linen.RMSNorm`, in float32.

    Layer normalization without the mean and without a bias.
    """

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        """x (..., C) to the same shape and dtype."""
        with jax.numpy_dtype_promotion("standard"):  # it mixes dtypes, which "strict" forbids
            return super().__call__(x, **options)


def group_norm(x: jax.Array) -> jax.Array:
    """Group normalization (Wu and He, 2018), eight channels a group, within a compact method.

    If the channels are no multiple of eight, they are one group.
    """
    groups = x.shape[-1] // 8 if x.shape[-1] % 8 == 0 else 1
    with jax.numpy_dtype_promotion("standard"):  # Flax's mixes dtypes, which "strict" forbids
        return nn.GroupNorm(num_groups=groups)(x)


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe and Szegedy, 2015), masked, and synchronized over devices.

    In training, mean and variance are those of the rows where `mask` (B,) is true: padding rows
    have no effect. A mask of more axes, (B, 1, W) say, leaves out parts of the rows. Sums
    and counts are computed in float32 over all devices, and divided once.
    Running averages, with weight `momentum` on the old value, are in the collection "batch_stats"
    and are used in evaluation. A batch of padding alone is normalized by all of its rows, so that
    the output stays finite, and does not change the running averages.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable[..., Any] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """x (B, ..., C) to the same shape and dtype."""
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        if train:
            mean, var, any_rows = _statistics(x, mask)
            if not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    average = self.momentum * running.value + (1 - self.momentum) * new
                    running.value = jnp.where(any_rows, average, running.value)
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale.astype(jnp.float32) * jax.lax.rsqrt(var + self.epsilon)
        axes = (None,) * (x.ndim - 1)
        out = (x.astype(jnp.float32) - mean[axes]) * factor[axes]
        return (out + bias.astype(jnp.float32)[axes]).astype(x.dtype)


def _statistics(x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mean and variance (C,) of what the mask does not leave out, and if there is anything."""
    axes = tuple(range(x.ndim - 1))
    x = x.astype(jnp.float32)
    if mask is None:
        mask = jnp.ones(x.shape[0], bool)
    mask = mask.astype(bool)
    any_rows = psum_batch(mask.sum()) > 0
    weights = (mask | ~any_rows).astype(jnp.float32)
    weights = weights.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    x = jnp.where(weights > 0, x, 0)
    sums = (
        (weights * x).sum(axes),
        (weights * x * x).sum(axes),
        weights.sum() * (x.size // (weights.size * x.shape[-1])),
    )
    total, squares, count = psum_batch(sums)
    mean = total / count
    return mean, jnp.maximum(squares / count - mean * mean, 0), any_rows
