"""Recurrent networks: simple, GRU or LSTM cells, stacked, in one direction or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdl.errors import Error
from jdl.layers import GRU as GRU
from jdl.layers import LSTM as LSTM
from jdl.layers import SIMPLE as SIMPLE
from jdl.layers import Cell, Dense, Dropout, recur
from jdl.layers.recurrence import States


class Recurrent(nn.Module):
    """One layer of a cell: x (B, T, F) to outputs (B, T, width) and the last states.

    The input's part is one product over all steps; within the scan is the product with the last output alone. Each
    gate's recurrent kernel begins orthogonal, and the forget gate of an LSTM open (Jozefowicz et al., 2015).
    """

    width: int
    cell: Cell = LSTM
    reverse: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, start: States | None = None
    ) -> tuple[jax.Array, States]:
        """Where `mask` (B, T) does not hold, the states stay as they are."""
        width, cell = self.width, self.cell

        def orthogonal(
            key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
        ) -> jax.Array:
            keys = jax.random.split(key, cell.gates)
            return jnp.concatenate(
                [nn.initializers.orthogonal()(k, (width, width), dtype) for k in keys], 1
            )

        def forget_nothing(
            key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
        ) -> jax.Array:
            return (
                jnp.zeros(shape, dtype).at[width : 2 * width].set(1.0 if cell.gates == 4 else 0.0)
            )

        xs = Dense(cell.gates * width, bias_init=forget_nothing, name="input")(x.swapaxes(0, 1))
        kernel = self.param("kernel", orthogonal, (width, cell.gates * width))
        if cell.reset_after:
            bias = self.param("bias", nn.initializers.zeros_init(), (cell.gates * width,))
        else:
            bias = jnp.zeros(cell.gates * width, xs.dtype)  # the input's bias does the same
        states = nothing(cell, x.shape[0], width, xs.dtype) if start is None else start
        outputs, end = recur(
            cell, kernel, bias, states, xs, None if mask is None else mask.T, self.reverse
        )
        return outputs.swapaxes(0, 1), end


def nothing(cell: Cell, rows: int, width: int, dtype: Any) -> States:
    """The states before the first step: zeros (rows, width)."""
    return tuple(jnp.zeros((rows, width), dtype) for _ in range(cell.states))


class RNN(nn.Module):
    """Recurrent layers of the widths `hidden`, dropout after each, and a dense layer of `outputs`.

    x is (B, T, ...) numbers, or (B, T) tokens where `vocabulary` is their number. The result is (B, outputs) of the
    last states, or with `each_step` (B, T, outputs). A mask (B, T) says which steps are real: the others, wherever
    they are, change nothing. With `remember`, a batch's rows go on where those of the last batch ended, kept in the
    collection "cache" (truncated backpropagation through time), if one is given; `decode` does the same for sampling.
    """

    outputs: int
    hidden: Sequence[int] = (128,)
    cell: Cell = LSTM
    bidirectional: bool = False
    each_step: bool = False
    vocabulary: int = 0
    embedding: int = 128
    dropout: float = 0.0
    remember: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, mask: jax.Array | None = None, decode: bool = False
    ) -> jax.Array:
        """x (B, T, ...), and a mask (B,) or (B, T)."""
        steps = mask if mask is not None and mask.ndim == 2 else None
        if self.vocabulary:
            x = nn.Embed(self.vocabulary, self.embedding, name="embed")(x)
            x = Dropout(self.dropout)(x, train)
        x = x.reshape(*x.shape[:2], -1)
        go_on = decode or (
            self.remember and (self.is_initializing() or self.has_variable("cache", "states_0"))
        )
        for n, width in enumerate(self.hidden):
            x, last = (
                self._both(n, width, x, steps)
                if self.bidirectional
                else self._one(n, width, x, steps, go_on)
            )
            if n == len(self.hidden) - 1 and not self.each_step:
                x = last
            x = Dropout(self.dropout)(x, train)
        return Dense(self.outputs, name="head")(x)

    def _one(
        self, n: int, width: int, x: jax.Array, steps: jax.Array | None, go_on: bool
    ) -> tuple[jax.Array, jax.Array]:
        """The outputs of a layer at every step and its last one, going on from the cache or not."""
        layer = Recurrent(width, self.cell, name=f"layer_{n}")
        if not go_on:
            x, states = layer(x, steps)
            return x, states[0]
        memory = self.variable(
            "cache", f"states_{n}", nothing, self.cell, x.shape[0], width, x.dtype
        )
        x, states = layer(x, steps, memory.value)
        if not self.is_initializing():
            memory.value = states
        return x, states[0]

    def _both(
        self, n: int, width: int, x: jax.Array, steps: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """The outputs and the last outputs of two layers, one for each direction, side by side."""
        if self.remember:
            raise Error(
                "A network in both directions cannot go on from its last states: remember=False."
            )
        there, end = Recurrent(width, self.cell, name=f"layer_{n}")(x, steps)
        back, start = Recurrent(width, self.cell, reverse=True, name=f"layer_{n}_back")(x, steps)
        return jnp.concatenate([there, back], -1), jnp.concatenate([end[0], start[0]], -1)
