"""A recurrent mixer: a gated linear recurrence in the place of attention, linear in time."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import Dense, linear_recurrence, segment_starts
from jdl.models.transformer_config import TransformerConfig

KERNEL = 4  # steps of the convolution, as in Griffin and Mamba
SHARPNESS = 8.0  # of the recurrence gate, as in Griffin


class RecurrentMixer(nn.Module):
    """The recurrent block of Griffin (De et al., 2024) with its RG-LRU, a linear recurrence.

    A causal convolution of each channel over four steps, then the real-gated linear recurrent unit
    (RG-LRU) h(t) = a(t) h(t - 1) + sqrt(1 - a(t)^2) i(t) x(t), whose decay a(t) and input gate i(t)
    depend on x(t) alone. So all steps are computed at once, by an associative scan in float32
    (`linear_recurrence`), and time and memory grow with the length, not with its square. The output
    is multiplied by a gate. When tokens are generated, the state is of one size however long the
    text, which a GPT's `max_length` still bounds: it takes the place of the KV cache. The gates are
    dense layers, where Griffin's are of diagonal blocks.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        decode: bool = False,
        segment: jax.Array | None = None,
    ) -> jax.Array:
        """x (B, T, width) to the same shape.

        Steps where `mask` (B, T) is false, on the right, leave the state as it is. With `decode`, x
        follows the steps whose state is in the collection "cache". The state is zero again where
        `segment` (B, T), the number of a step's document, changes.
        """
        c, (rows, steps, _) = self.config, x.shape
        gate = nn.gelu(Dense(c.width, use_bias=False, name="gate")(x))
        x = Dense(c.width, use_bias=False, name="in")(x)
        before = jnp.zeros((rows, KERNEL - 1, c.width), x.dtype)
        h = jnp.zeros((rows, c.width), jnp.float32)
        if decode:
            before, h = (self._cached(name, v) for name, v in (("inputs", before), ("state", h)))
        every = jnp.concatenate([before, x], 1)
        x = self._convolved(every, steps, segment)
        a, b = self._decay_and_input(x)
        if segment is not None:
            a = jnp.where(segment_starts(segment)[..., None], 0, a)
        if mask is not None:
            a, b = (jnp.where(mask[..., None].astype(bool), v, n) for v, n in ((a, 1), (b, 0)))
        states = linear_recurrence(a, b, h, one_by_one=decode)
        if decode:
            real = jnp.full(rows, steps) if mask is None else mask.sum(1, dtype=jnp.int32)
            last = real[:, None] + jnp.arange(KERNEL - 1)[None]
            self.put_variable("cache", "inputs", jnp.take_along_axis(every, last[..., None], 1))
            self.put_variable("cache", "state", states[:, -1])
        out = states.astype(gate.dtype) * gate
        return Dense(c.width, use_bias=False, kernel_init=c.residual_init, name="out")(out)

    def _cached(self, name: str, zeros: jax.Array) -> jax.Array:
        return self.get_variable("cache", name, zeros).astype(zeros.dtype)

    def _convolved(self, every: jax.Array, steps: int, segment: jax.Array | None) -> jax.Array:
        """The causal convolution of each channel (depthwise), within a document alone."""
        init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform", 0, 1)
        kernel = self.param("kernel", init, (KERNEL, self.config.width))
        out = jnp.zeros_like(every[:, :steps])
        for n in range(KERNEL):
            shifted = every[:, n : n + steps] * kernel[n][None, None].astype(every.dtype)
            if segment is not None:
                back = KERNEL - 1 - n
                padded = jnp.pad(segment, ((0, 0), (back, 0)), constant_values=-1)
                shifted = jnp.where((padded[:, :steps] == segment)[..., None], shifted, 0)
            out = out + shifted
        return out

    def _decay_and_input(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The decay a (B, T, width) of the state, between 0 and 1, and what is added to it."""
        width = self.config.width
        gates = jax.nn.sigmoid(Dense(2 * width, name="gates")(x).astype(jnp.float32))
        recurrence, input_gate = jnp.split(gates, 2, -1)
        decay = self.param("decay", _decay_init, (width,)).astype(jnp.float32)
        log_a = -SHARPNESS * recurrence * jax.nn.softplus(decay)[None, None]
        # By expm1, as 1 - a^2 rounds to 0 where the decay is slow.
        scale = jnp.sqrt(-jnp.expm1(2 * log_a))
        return jnp.exp(log_a), scale * input_gate * x.astype(jnp.float32)


def _decay_init(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Decays from 0.9 to 0.999 where the gate is 1: softplus^-1(-log(decay) / 8)."""
    decay = jax.random.uniform(key, shape, dtype, 0.9, 0.999)
    return jnp.log(jnp.expm1(-jnp.log(decay) / SHARPNESS))
