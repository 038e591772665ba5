"""A convolutional network for DNA, whose first layer learns motifs."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import Conv, convolution, max_pool
from jdl.models.mlp import MLP


class SequenceCNN(nn.Module):
    """Convolutional network for DNA, as DeepBind (Alipanahi et al., 2015), Basset (2016).

    Bases x (B, T), where A, C, G, T are 1 to 4 and 0 is unknown, become one-hot, with zeros for
    unknown ones. A layer of `motifs` filters, each `width` bases wide, and ReLU tell where each
    motif is (`scan`). They are max-pooled over 2 places; then each pair (channels, width) of
    `blocks` is a convolution and ReLU, which see the order of motifs and the distance between them.
    The maximum over all places and an MLP with the hidden widths `dense` give (B, outputs). Places
    where the mask (B, T) is false are padding, on the right, and change nothing.
    """

    outputs: int
    motifs: int = 32
    width: int = 12
    blocks: Sequence[tuple[int, int]] = ((32, 20),)
    dense: Sequence[int] = (32,)
    dropout: float = 0.0  # of the MLP

    def setup(self) -> None:
        """The layers, which `scan` shares."""
        shape = (self.width, 4, self.motifs)
        self.motif_kernel = self.param("motif_kernel", nn.initializers.he_normal(), shape)
        self.motif_bias = self.param("motif_bias", nn.initializers.zeros, (self.motifs,))
        self.layers = [Conv(channels, (width, 1)) for channels, width in self.blocks]
        self.head = MLP(self.outputs, self.dense, dropout=self.dropout)

    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Bases x (B, T), and a mask (B,) or (B, T), to (B, outputs)."""
        found, real = self.scan(x, mask), self._real_windows(x, mask)
        # One more window of zeros: without it, pooling would drop the last one of an odd number.
        last = ((0, 0), (0, 1), (0, 0))
        x = max_pool(jnp.pad(found, last)[:, :, None], (2, 1))
        real = max_pool(jnp.pad(real[:, :, None].astype(x.dtype), last)[:, :, None], (2, 1))
        for layer in self.layers:
            x = nn.relu(layer(x)) * real
        return self.head(x.max((1, 2)), train)

    def scan(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """How much each motif is like the bases from each place on, (B, T - width + 1, motifs).

        0 where it is not, and for windows with padding. Raises `Error` if T is below `width`.
        """
        if isinstance(steps := x.shape[1], int) and steps < self.width:
            raise Error(
                f"SequenceCNN reads sequences of at least {self.width} bases, the width of its "
                f"motifs, not {steps}: give it a smaller width."
            )
        one_hot = jax.nn.one_hot(x - 1, 4, dtype=self.motif_kernel.dtype)[:, :, None]
        found = convolution(one_hot, self.motif_kernel[:, None], (1, 1), "VALID")[:, :, 0]
        found = nn.relu(found + self.motif_bias[None, None])
        return found * self._real_windows(x, mask)[:, :, None].astype(found.dtype)

    def _real_windows(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Which windows of the first layer have no padding, (B, T - width + 1)."""
        if mask is None or mask.ndim < 2:
            return jnp.ones((x.shape[0], x.shape[1] - self.width + 1), bool)
        return mask[:, self.width - 1 :].astype(bool)
