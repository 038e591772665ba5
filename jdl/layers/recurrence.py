"""Recurrent cells, and the one scan that runs them all, with gradients that are fast on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

States = tuple[jax.Array, ...]  # (B, H) each; the first is the cell's output
Update = Callable[[States, jax.Array, jax.Array], States]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell: `update(states, x, r)` from what the input and the last output say, (B, gates * H) each."""

    update: Update
    gates: int
    states: int
    reset_after: bool = False  # the last output's part needs a bias of its own, as it is not just added to the input's


# A gate is a sigmoid, and sigmoid(z) = tanh(z / 2) / 2 + 1 / 2: so one wide tanh serves all gates of a cell. XLA's CPU
# backend would fuse its pieces into every use of them and compute them anew each time; the barriers forbid that, and
# the gradients are written out because those of slices are sums of padded arrays.
_once = lax.optimization_barrier


def _squash(z: jax.Array, kinds: str) -> jax.Array:
    """The sigmoid ("s") or tanh ("t") of each of the equal parts of z (B, len(kinds) * H)."""
    scale, shift = _scale_and_shift(kinds, z.shape[-1], z.dtype)
    return _once(jnp.tanh(z * scale) * scale + shift)


def _squash_slope(a: jax.Array, kinds: str) -> jax.Array:
    """The slope of `_squash` where its value is a."""
    scale, shift = _scale_and_shift(kinds, a.shape[-1], a.dtype)
    return scale * scale - (a - shift) ** 2


def _scale_and_shift(kinds: str, width: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    sigmoid = np.repeat([kind == "s" for kind in kinds], width // len(kinds))[None]
    return np.where(sigmoid, 0.5, 1).astype(dtype), np.where(sigmoid, 0.5, 0).astype(dtype)


@jax.custom_vjp
def _simple(states: States, x: jax.Array, r: jax.Array) -> States:
    return (jnp.tanh(x + r),)


def _simple_forward(states: States, x: jax.Array, r: jax.Array) -> tuple[States, jax.Array]:
    h = _once(jnp.tanh(x + r))
    return (h,), h


def _simple_backward(h: jax.Array, gradient: States) -> tuple[States, jax.Array, jax.Array]:
    z = gradient[0] * (1 - h * h)
    return (jnp.zeros_like(h),), z, z


@jax.custom_vjp
def _gru(states: States, x: jax.Array, r: jax.Array) -> States:
    return _gru_forward(states, x, r)[0]


def _gru_forward(states: States, x: jax.Array, r: jax.Array) -> tuple[States, Any]:
    (h,), width = states, states[0].shape[-1]
    a = _squash(x[:, : 2 * width] + r[:, : 2 * width], "ss")
    reset, keep = jnp.split(a, 2, -1)
    new = _once(jnp.tanh(x[:, 2 * width :] + reset * r[:, 2 * width :]))
    return (new + keep * (h - new),), (h, a, new, r[:, 2 * width :])


def _gru_backward(kept: Any, gradient: States) -> tuple[States, jax.Array, jax.Array]:
    (d,), (h, a, new, r_new) = gradient, kept
    reset, keep = jnp.split(a, 2, -1)
    z_new = _once(d * (1 - keep) * (1 - new * new))
    z_gates = jnp.concatenate([z_new * r_new, d * (h - new)], -1) * _squash_slope(a, "ss")
    of_x, of_r = (jnp.concatenate([z_gates, part], -1) for part in (z_new, z_new * reset))
    return (d * keep,), of_x, of_r


@jax.custom_vjp
def _lstm(states: States, x: jax.Array, r: jax.Array) -> States:
    return _lstm_forward(states, x, r)[0]


def _lstm_forward(states: States, x: jax.Array, r: jax.Array) -> tuple[States, Any]:
    a = _squash(x + r, "ssts")
    enter, keep, new, leave = jnp.split(a, 4, -1)
    c = _once(keep * states[1] + enter * new)
    squashed = _once(jnp.tanh(c))
    return (leave * squashed, c), (a, states[1], squashed)


def _lstm_backward(kept: Any, gradient: States) -> tuple[States, jax.Array, jax.Array]:
    (d_h, d_c), (a, c, squashed) = gradient, kept
    enter, keep, new, leave = jnp.split(a, 4, -1)
    d_c = d_c + d_h * leave * (1 - squashed * squashed)
    z = jnp.concatenate([d_c * new, d_c * c, d_c * enter, d_h * squashed], -1) * _squash_slope(
        a, "ssts"
    )
    return (jnp.zeros_like(d_h), d_c * keep), z, z


_simple.defvjp(_simple_forward, _simple_backward)
_gru.defvjp(_gru_forward, _gru_backward)
_lstm.defvjp(_lstm_forward, _lstm_backward)

SIMPLE = Cell(_simple, gates=1, states=1)
"""h = tanh(x + r) (Elman, 1990)."""
GRU = Cell(_gru, gates=3, states=1, reset_after=True)
"""Reset, update and candidate, with the reset after the product, as in cuDNN (Cho et al., 2014)."""
LSTM = Cell(_lstm, gates=4, states=2)
"""Input, forget, candidate and output gate (Hochreiter and Schmidhuber, 1997; Gers et al., 2000)."""


def recur(
    cell: Cell,
    kernel: jax.Array,
    bias: jax.Array,
    start: States,
    xs: jax.Array,
    mask: jax.Array | None = None,
    reverse: bool = False,
) -> tuple[jax.Array, States]:
    """Runs a cell over time: the outputs (T, B, H) and the last states.

    `xs` (T, B, gates * H) is what the inputs say; `kernel` (H, gates * H) and `bias` (gates * H,) make of the last
    output what it says. Where `mask` (T, B) does not hold, the states stay as they are.
    """
    return _recur(cell.update, reverse, kernel, bias, start, xs, mask)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recur(
    update: Update,
    reverse: bool,
    kernel: jax.Array,
    bias: jax.Array,
    start: States,
    xs: jax.Array,
    mask: jax.Array | None,
) -> tuple[jax.Array, States]:
    def step(states: States, now: tuple[jax.Array, jax.Array | None]) -> tuple[States, jax.Array]:
        x, real = now
        states = _where(real, update(states, x, _once(states[0] @ kernel) + bias[None]), states)
        return states, states[0]

    end, outputs = lax.scan(step, start, (xs, mask), reverse=reverse)
    return outputs, end


def _forward(
    update: Update,
    reverse: bool,
    kernel: jax.Array,
    bias: jax.Array,
    start: States,
    xs: Any,
    mask: Any,
) -> Any:
    """Keeps, of every step, the last output and the gradient of the cell as a function with its arrays."""

    def step(states: States, now: Any) -> tuple[States, Any]:
        x, real = now
        new, gradient = jax.vjp(update, states, x, _once(states[0] @ kernel) + bias[None])
        new = _where(real, new, states)
        return new, (new[0], states[0], gradient)

    end, (outputs, before, gradients) = lax.scan(step, start, (xs, mask), reverse=reverse)
    return (outputs, end), (kernel, mask, before, gradients)


def _backward(update: Update, reverse: bool, kept: Any, gradient: tuple[jax.Array, States]) -> Any:
    """The kernel's gradient is one product over all steps at the end, instead of one and an addition a step."""
    kernel, mask, before, gradients = kept
    of_outputs, of_end = gradient
    transposed = kernel.T

    def step(d: States, now: Any) -> tuple[States, Any]:
        of_output, real, cell_gradient = now
        d = (d[0] + of_output, *d[1:])
        of_states, of_x, of_r = cell_gradient(_where(real, d, jax.tree.map(jnp.zeros_like, d)))
        of_r = _once(of_r)
        through = (of_states[0] + of_r @ transposed, *of_states[1:])
        return _where(real, through, d), (of_x, of_r)

    of_start, (of_xs, of_rs) = lax.scan(
        step, of_end, (of_outputs, mask, gradients), reverse=not reverse
    )
    of_rs = of_rs.reshape(-1, of_rs.shape[-1])
    of_kernel = before.reshape(-1, before.shape[-1]).T @ of_rs
    return of_kernel, of_rs.sum(0), of_start, of_xs, None


_recur.defvjp(_forward, _backward)


def _where(real: jax.Array | None, new: States, old: States) -> States:
    return (
        new
        if real is None
        else tuple(jnp.where(real[:, None], n, o) for n, o in zip(new, old, strict=True))
    )
