"""Optical character recognition: the CRNN, convolutions and then a bidirectional LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import LSTM, BatchNorm, Cell, Conv, max_pool
from jdl.models.rnn import RNN

SHORTER = 4  # the pixels of width that an output stands for


class CRNN(nn.Module):
    """CRNN, convolutional recurrent neural network (Shi et al., 2017): text in images, by CTC.

    For optical character recognition (OCR) with `jdl.objectives.ctc`. Images of lines x (B, H, W,
    C), padded on the right, give logits (B, W / 4, outputs): one output for 4 columns of pixels.
    Each of the `channels` is a block: convolution, max pooling, BatchNorm, ReLU. The first two
    blocks halve height and width, the others the height alone. The features of a column are then
    the inputs of bidirectional recurrent layers, by default LSTM, of the widths `hidden`. Columns
    from `width` (B,) on are padding and change nothing. Dropout follows each layer.
    """

    outputs: int
    channels: Sequence[int] = (16, 32, 64)
    hidden: Sequence[int] = (64,)
    dropout: float = 0.0
    cell: Cell = LSTM
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        mask: jax.Array | None = None,
        width: jax.Array | None = None,
    ) -> jax.Array:
        """x (B, H, W, C), a mask (B,) of real rows, and widths (B,), to (B, W / 4, outputs)."""
        self._check(x.shape)
        real = _real_columns(x, mask, width)
        x = jnp.where(real, x, 0)
        for n, channels in enumerate(self.channels):
            # BatchNorm cancels a bias before it, whose gradient would be noise for Adam.
            x = max_pool(Conv(channels, use_bias=False)(x), (2, 2 if n < 2 else 1))
            real = real[:, :, ::2] if n < 2 else real
            x = self.activation(BatchNorm()(x, train, real[..., 0]))
            x = jnp.where(real, x, 0)  # as the border of an image without padding
        x = x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)
        rnn = RNN(
            self.outputs,
            self.hidden,
            self.cell,
            bidirectional=True,
            return_sequences=True,
            dropout=self.dropout,
            name="rnn",
        )
        return rnn(x, train, real[:, 0, :, 0])

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(self.channels) < 2:
            raise Error(f"CRNN needs channels for two blocks at least, not {self.channels}.")
        if len(shape) != 4 or shape[1] < 2 ** len(self.channels) or shape[2] % SHORTER:
            raise Error(
                f"CRNN reads images (B, H, W, C), H at least {2 ** len(self.channels)} and W a "
                f"multiple of {SHORTER}, and not {shape}: resize them, and pad them on the right."
            )


def _real_columns(x: jax.Array, mask: jax.Array | None, width: jax.Array | None) -> jax.Array:
    """The mask (B, 1, W, 1) of the columns of pixels that are no padding."""
    rows, _, columns, _ = x.shape
    real = jnp.ones((rows, columns), bool)
    if width is not None:
        real &= jnp.arange(columns)[None] < width[:, None]
    if mask is not None:
        real &= mask.astype(bool)[:, None]
    return real[:, None, :, None]
