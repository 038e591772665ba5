"""Recurrent cells (Elman, GRU, LSTM) and the scan over time that runs them, with fast gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdl.layers.platform import scan_back

States = tuple[jax.Array, ...]  # (B, H) each; the first is the cell's output (hidden state)
Update = Callable[[States, jax.Array, jax.Array], States]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell: `update(states, from_x, from_h)` gives the next states, (B, H) each.

    `from_x` and `from_h`, (B, gates * H) each, are the linear projections of the input and of the
    last output, for each gate.
    """

    update: Update
    gates: int
    states: int
    reset_after: bool = False  # `from_h` is not just added to `from_x`: it needs its own bias


# As sigmoid(z) = tanh(z / 2) / 2 + 1 / 2, one wide tanh computes all gates of a cell. XLA's CPU
# backend would recompute it for every use of a gate; the barriers prevent that. The gradients are
# written out because those of slices are sums of padded arrays, which are slow.
_barrier = lax.optimization_barrier


def _gates(z: jax.Array, kinds: str) -> jax.Array:
    """The sigmoid ("s") or tanh ("t") of each of the equal parts of z (B, len(kinds) * H)."""
    scale, shift = _scale_and_shift(kinds, z.shape[-1], z.dtype)
    return _barrier(jnp.tanh(z * scale) * scale + shift)


def _gates_slope(a: jax.Array, kinds: str) -> jax.Array:
    """The derivative of `_gates`, given its value a."""
    scale, shift = _scale_and_shift(kinds, a.shape[-1], a.dtype)
    return scale * scale - (a - shift) ** 2


def _scale_and_shift(kinds: str, width: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    sigmoid = np.repeat([kind == "s" for kind in kinds], width // len(kinds))[None]
    return np.where(sigmoid, 0.5, 1).astype(dtype), np.where(sigmoid, 0.5, 0).astype(dtype)


@jax.custom_vjp
def _elman(states: States, from_x: jax.Array, from_h: jax.Array) -> States:
    return (jnp.tanh(from_x + from_h),)


def _elman_forward(
    states: States, from_x: jax.Array, from_h: jax.Array
) -> tuple[States, jax.Array]:
    h = _barrier(jnp.tanh(from_x + from_h))
    return (h,), h


def _elman_backward(h: jax.Array, grad: States) -> tuple[States, jax.Array, jax.Array]:
    grad_z = grad[0] * (1 - h * h)
    return (jnp.zeros_like(h),), grad_z, grad_z


@jax.custom_vjp
def _gru(states: States, from_x: jax.Array, from_h: jax.Array) -> States:
    return _gru_forward(states, from_x, from_h)[0]


def _gru_forward(states: States, from_x: jax.Array, from_h: jax.Array) -> tuple[States, Any]:
    (h,), width = states, states[0].shape[-1]
    gates = _gates(from_x[:, : 2 * width] + from_h[:, : 2 * width], "ss")
    reset, update = jnp.split(gates, 2, -1)
    candidate = _barrier(jnp.tanh(from_x[:, 2 * width :] + reset * from_h[:, 2 * width :]))
    new_h = candidate + update * (h - candidate)
    return (new_h,), (h, gates, candidate, from_h[:, 2 * width :])


def _gru_backward(residuals: Any, grad: States) -> tuple[States, jax.Array, jax.Array]:
    (grad_h,), (h, gates, candidate, candidate_from_h) = grad, residuals
    reset, update = jnp.split(gates, 2, -1)
    grad_candidate = _barrier(grad_h * (1 - update) * (1 - candidate * candidate))
    grad_gates = [grad_candidate * candidate_from_h, grad_h * (h - candidate)]
    grad_gates_z = jnp.concatenate(grad_gates, -1) * _gates_slope(gates, "ss")
    grad_from_x, grad_from_h = (
        jnp.concatenate([grad_gates_z, part], -1)
        for part in (grad_candidate, grad_candidate * reset)
    )
    return (grad_h * update,), grad_from_x, grad_from_h


@jax.custom_vjp
def _lstm(states: States, from_x: jax.Array, from_h: jax.Array) -> States:
    return _lstm_forward(states, from_x, from_h)[0]


def _lstm_forward(states: States, from_x: jax.Array, from_h: jax.Array) -> tuple[States, Any]:
    gates = _gates(from_x + from_h, "ssts")
    i, f, g, o = jnp.split(gates, 4, -1)  # input, forget, candidate, output
    c = _barrier(f * states[1] + i * g)
    tanh_c = _barrier(jnp.tanh(c))
    return (o * tanh_c, c), (gates, states[1], tanh_c)


def _lstm_backward(residuals: Any, grad: States) -> tuple[States, jax.Array, jax.Array]:
    (grad_h, grad_c), (gates, c, tanh_c) = grad, residuals
    i, f, g, o = jnp.split(gates, 4, -1)
    grad_c = grad_c + grad_h * o * (1 - tanh_c * tanh_c)
    grad_gates = jnp.concatenate([grad_c * g, grad_c * c, grad_c * i, grad_h * tanh_c], -1)
    grad_z = grad_gates * _gates_slope(gates, "ssts")
    return (jnp.zeros_like(grad_h), grad_c * f), grad_z, grad_z


_elman.defvjp(_elman_forward, _elman_backward)
_gru.defvjp(_gru_forward, _gru_backward)
_lstm.defvjp(_lstm_forward, _lstm_backward)

ELMAN = Cell(_elman, gates=1, states=1)
"""The simple (vanilla, Elman) recurrent cell: h = tanh(from_x + from_h) (Elman, 1990)."""
GRU = Cell(_gru, gates=3, states=1, reset_after=True)
"""GRU, the gated recurrent unit (Cho et al., 2014): gates reset, update, candidate.

The reset gate acts after the product, as in cuDNN and Keras (`reset_after`).
"""
LSTM = Cell(_lstm, gates=4, states=2)
"""LSTM, long short-term memory (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).

Gates input, forget, candidate, output; states (h, c).
"""


def scan_cell(
    cell: Cell,
    kernel: jax.Array,
    bias: jax.Array,
    initial_states: States,
    from_x: jax.Array,
    mask: jax.Array | None = None,
    reverse: bool = False,
    start: jax.Array | None = None,
) -> tuple[jax.Array, States]:
    """Runs a recurrent cell over time (`lax.scan`): the outputs (T, B, H) and the last states.

    `from_x` (T, B, gates * H) are the projections of the inputs; the recurrent `kernel` (H, gates *
    H) and `bias` (gates * H,) project the last output. Steps where `mask` (T, B) is false do not
    change the states. Before steps where `start` (T, B) is true, in the order of the scan, the
    states are reset to zeros: a new sequence begins there, such as an episode. Backpropagation
    through time is written out: the kernel's gradient is one product over all steps at the end,
    instead of a product and a sum at each step.
    """
    return _scan(cell.update, reverse, kernel, bias, initial_states, from_x, mask, start)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(
    update: Update,
    reverse: bool,
    kernel: jax.Array,
    bias: jax.Array,
    initial_states: States,
    from_x: jax.Array,
    mask: jax.Array | None,
    start: jax.Array | None,
) -> tuple[jax.Array, States]:
    def step(states: States, now: Any) -> tuple[States, jax.Array]:
        x, is_real, is_start = now
        states = _reset(is_start, states)
        new = update(states, x, _barrier(states[0] @ kernel) + bias[None])
        states = _where(is_real, new, states)
        return states, states[0]

    scan = scan_back if reverse else lax.scan
    last, outputs = scan(step, initial_states, (from_x, mask, start))
    return outputs, last


def _forward(
    update: Update,
    reverse: bool,
    kernel: jax.Array,
    bias: jax.Array,
    initial_states: States,
    from_x: Any,
    mask: Any,
    start: Any,
) -> Any:
    """The forward pass; stores each step's previous output and vector-Jacobian product."""

    def step(states: States, now: Any) -> tuple[States, Any]:
        x, is_real, is_start = now
        states = _reset(is_start, states)
        new, cell_vjp = jax.vjp(update, states, x, _barrier(states[0] @ kernel) + bias[None])
        new = _where(is_real, new, states)
        return new, (new[0], states[0], cell_vjp)

    last, (outputs, inputs_h, cell_vjps) = lax.scan(
        step, initial_states, (from_x, mask, start), reverse=reverse
    )
    return (outputs, last), (kernel, mask, start, inputs_h, cell_vjps)


def _backward(update: Update, reverse: bool, residuals: Any, grad: tuple[jax.Array, States]) -> Any:
    """Backpropagation through time."""
    kernel, mask, start, inputs_h, cell_vjps = residuals
    grad_outputs, grad_last = grad
    transposed = kernel.T

    def step(grad_states: States, now: Any) -> tuple[States, Any]:
        grad_output, is_real, is_start, cell_vjp = now
        grad_states = (grad_states[0] + grad_output, *grad_states[1:])
        zeros = jax.tree.map(jnp.zeros_like, grad_states)
        grad_before, grad_x, grad_h = cell_vjp(_where(is_real, grad_states, zeros))
        grad_h = _barrier(grad_h)
        grad_before = (grad_before[0] + grad_h @ transposed, *grad_before[1:])
        grad_before = _reset(is_start, _where(is_real, grad_before, grad_states))
        return grad_before, (grad_x, grad_h)

    grad_initial, (grad_from_x, grad_from_h) = lax.scan(
        step, grad_last, (grad_outputs, mask, start, cell_vjps), reverse=not reverse
    )
    grad_from_h = grad_from_h.reshape(-1, grad_from_h.shape[-1])
    grad_kernel = inputs_h.reshape(-1, inputs_h.shape[-1]).T @ grad_from_h
    return grad_kernel, grad_from_h.sum(0), grad_initial, grad_from_x, None, None


_scan.defvjp(_forward, _backward)


def _where(is_real: jax.Array | None, new: States, old: States) -> States:
    """The new states in the rows where `is_real` (B,) is true, the old ones in the others."""
    if is_real is None:
        return new
    return tuple(jnp.where(is_real[:, None], n, o) for n, o in zip(new, old, strict=True))


def _reset(is_start: jax.Array | None, states: States) -> States:
    """The states, zeros in the rows where `is_start` (B,) is true."""
    if is_start is None:
        return states
    return tuple(jnp.where(is_start[:, None], 0, leaf) for leaf in states)
