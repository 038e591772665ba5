"""Recurrent neural networks (RNN): Elman, GRU or LSTM cells, stacked, in one direction or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import ELMAN as ELMAN
from jdl.layers import GRU as GRU
from jdl.layers import LSTM as LSTM
from jdl.layers import Cell, Dense, Dropout, scan_cell
from jdl.layers.recurrence import States


class RecurrentLayer(nn.Module):
    """One recurrent layer: x (B, T, F) to outputs (B, T, width) and the last states.

    The states are (B, width) each. The inputs are projected in one product over all steps; the scan
    contains only the projection of the last output. Each gate's recurrent kernel is initialized
    orthogonal, and the bias of an LSTM's forget gate to 1 (Jozefowicz et al., 2015).
    """

    width: int
    cell: Cell = LSTM
    reverse: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        states: States | None = None,
        start: jax.Array | None = None,
    ) -> tuple[jax.Array, States]:
        """From `states`, by default zeros; steps where `mask` (B, T) is false are skipped.

        Before steps where `start` (B, T) is true the states are reset to zeros.
        """
        width, cell = self.width, self.cell
        x = x.swapaxes(0, 1)
        from_x = Dense(cell.gates * width, bias_init=self._input_bias, name="input")(x)
        kernel = self.param("kernel", self._orthogonal, (width, cell.gates * width))
        if cell.reset_after:
            bias = self.param("bias", nn.initializers.zeros_init(), (cell.gates * width,))
        else:
            bias = jnp.zeros(
                cell.gates * width, from_x.dtype
            )  # the bias of `input` has the same effect
        if states is None:
            states = initial_states(cell, x.shape[1], width, from_x.dtype)
        mask, start = (None if steps is None else steps.T for steps in (mask, start))
        outputs, last = scan_cell(cell, kernel, bias, states, from_x, mask, self.reverse, start)
        return outputs.swapaxes(0, 1), last

    def _orthogonal(
        self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
    ) -> jax.Array:
        """Initializer of the recurrent kernel: an orthogonal matrix for each gate."""
        init, square = nn.initializers.orthogonal(), (self.width, self.width)
        keys = jax.random.split(key, self.cell.gates)
        return jnp.concatenate([init(k, square, dtype) for k in keys], 1)

    def _input_bias(
        self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
    ) -> jax.Array:
        """Initializer of the gates' bias: 1 for the forget gate of an LSTM, otherwise 0."""
        forget = 1.0 if self.cell.gates == 4 else 0.0
        return jnp.zeros(shape, dtype).at[self.width : 2 * self.width].set(forget)


def initial_states(cell: Cell, rows: int, width: int, dtype: Any) -> States:
    """The states before the first step: zeros (rows, width)."""
    return tuple(jnp.zeros((rows, width), dtype) for _ in range(cell.states))


class RNN(nn.Module):
    """Recurrent neural network: recurrent layers of the widths `hidden`, and a dense layer.

    x is (B, T, ...) numbers, or with a `vocab_size` (B, T) tokens, which get embeddings. The result
    is (B, outputs), from the last outputs, or with `return_sequences` (B, T, outputs). Dropout
    follows the embedding and each layer. Steps where the mask (B, T) is false are skipped, wherever
    they are. A `stateful` network begins each batch with the last states of the batch before
    (truncated backpropagation through time), row by row, if the collection "cache" is given, which
    holds them. `decode` does the same for generating token by token.
    """

    outputs: int
    hidden: Sequence[int] = (128,)
    cell: Cell = LSTM
    bidirectional: bool = False
    return_sequences: bool = False
    vocab_size: int = 0
    embedding_width: int = 128
    dropout: float = 0.0
    stateful: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None, decode: bool = False
    ) -> jax.Array:
        """x (B, T, ...), and a mask (B,) or (B, T), to (B, outputs) or (B, T, outputs)."""
        if self.bidirectional and self.stateful:
            raise Error(
                "A bidirectional RNN cannot be stateful, because the backward direction begins "
                "with the last step: use stateful=False."
            )
        time_mask = mask if mask is not None and mask.ndim == 2 else None
        if self.vocab_size:
            x = nn.Embed(self.vocab_size, self.embedding_width, name="embed")(x)
            x = Dropout(self.dropout)(x, train)
        x = x.reshape(*x.shape[:2], -1)
        has_cache = self.is_initializing() or self.has_variable("cache", "states_0")
        use_cache = decode or (self.stateful and has_cache)
        for n, width in enumerate(self.hidden):
            if self.bidirectional:
                x, last = self._bidirectional(n, width, x, time_mask)
            else:
                x, last = self._forward(n, width, x, time_mask, use_cache)
            if n == len(self.hidden) - 1 and not self.return_sequences:
                x = last
            x = Dropout(self.dropout)(x, train)
        return Dense(self.outputs, name="head")(x)

    def _forward(
        self, n: int, width: int, x: jax.Array, time_mask: jax.Array | None, use_cache: bool
    ) -> tuple[jax.Array, jax.Array]:
        """A layer's outputs and its last one, from the states of the cache or from zeros."""
        layer = RecurrentLayer(width, self.cell, name=f"layer_{n}")
        if not use_cache:
            x, states = layer(x, time_mask)
            return x, states[0]
        cache = self.variable(
            "cache", f"states_{n}", initial_states, self.cell, x.shape[0], width, x.dtype
        )
        x, states = layer(x, time_mask, cache.value)
        if not self.is_initializing():
            cache.value = states
        return x, states[0]

    def _bidirectional(
        self, n: int, width: int, x: jax.Array, time_mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """The outputs and the last outputs of a forward and a backward layer, concatenated."""
        forward = RecurrentLayer(width, self.cell, name=f"layer_{n}")
        backward = RecurrentLayer(width, self.cell, reverse=True, name=f"layer_{n}_backward")
        (xs, last), (xs_back, last_back) = forward(x, time_mask), backward(x, time_mask)
        return jnp.concatenate([xs, xs_back], -1), jnp.concatenate([last[0], last_back[0]], -1)
