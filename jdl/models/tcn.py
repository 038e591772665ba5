"""TCN: the temporal convolutional network, for sequences of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.layers import CausalConv, Dense, Dropout


class TCN(nn.Module):
    """Temporal convolutional network (TCN; Bai et al., 2018): dilated causal convolutions.

    x (B, T, ...) gives (B, outputs), from the last step, or with `return_sequences` (B, T,
    outputs). There is a residual block for each of the widths `channels`: two causal convolutions,
    each with ReLU and dropout of whole channels, whose dilation doubles from block to block. An
    output sees as many steps as `receptive_field` says; those before are left out. Unlike the
    paper's, the convolutions have no weight normalization: with He initialization and residual
    connections they train without. Steps where the mask (B, T) is false are padding, on the right.
    """

    outputs: int
    channels: Sequence[int] = (32,) * 5
    kernel: int = 3
    dropout: float = 0.0
    return_sequences: bool = False

    @property
    def receptive_field(self) -> int:
        """How many steps, the last ones up to its own, an output depends on."""
        return 1 + 2 * (self.kernel - 1) * (2 ** len(self.channels) - 1)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """x (B, T, ...), and a mask (B,) or (B, T), to (B, outputs) or (B, T, outputs)."""
        x = x.reshape(*x.shape[:2], -1)
        time_mask = mask if mask is not None and mask.ndim == 2 else None
        last_alone = not self.return_sequences and time_mask is None
        if last_alone:
            x = x[:, -self.receptive_field :]
        for n, width in enumerate(self.channels):
            if last_alone and n:
                # The last output depends on every second step of this block's input alone; with
                # the others left out, the doubled dilation is one of 1 again.
                x = x[:, (x.shape[1] - 1) % 2 :: 2]
            dilation = 1 if last_alone else 2**n
            shortcut = x if x.shape[-1] == width else Dense(width, name=f"shortcut_{n}")(x)
            for half in ("a", "b"):
                conv = CausalConv(width, self.kernel, dilation, name=f"conv_{n}_{half}")
                x = _drop_channels(Dropout(self.dropout), nn.relu(conv(x)), train)
            x = nn.relu(x + shortcut)
        x = x if self.return_sequences else _last_step(x, time_mask)
        return Dense(self.outputs, name="head")(x)


def _drop_channels(dropout: Dropout, x: jax.Array, train: bool) -> jax.Array:
    """Spatial dropout (Tompson et al., 2015): whole channels of a row of x (B, T, C)."""
    return x * dropout(jnp.ones((x.shape[0], 1, x.shape[2]), x.dtype), train)


def _last_step(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The last real step (B, C) of x (B, T, C)."""
    if mask is None:
        return x[:, -1]
    last = (mask.sum(1) - 1).clip(0)
    return jnp.take_along_axis(x, last[:, None, None], 1)[:, 0]
