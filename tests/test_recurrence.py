"""Recurrent cells and their scan, with gradients of their own, against the textbooks' formulas.

Seen to fail: states that are not reset where a sequence starts, and their gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdl.layers import ELMAN, GRU, LSTM, scan_cell

STEPS, ROWS, WIDTH = 6, 3, 4


def elman(states, from_x, from_h):
    return (jnp.tanh(from_x + from_h),)


def gru(states, from_x, from_h):
    reset_x, update_x, candidate_x = jnp.split(from_x, 3, -1)
    reset_h, update_h, candidate_h = jnp.split(from_h, 3, -1)
    reset, update = jax.nn.sigmoid(reset_x + reset_h), jax.nn.sigmoid(update_x + update_h)
    candidate = jnp.tanh(candidate_x + reset * candidate_h)
    return ((1 - update) * candidate + update * states[0],)


def lstm(states, from_x, from_h):
    i, f, g, o = jnp.split(from_x + from_h, 4, -1)
    c = jax.nn.sigmoid(f) * states[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def plain_scan(update, kernel, bias, initial_states, from_x, mask, reverse, start):
    def step(states, now):
        x, is_real, is_start = now
        states = tuple(jnp.where(is_start[:, None], 0, state) for state in states)
        new = update(states, x, states[0] @ kernel + bias[None])
        states = tuple(jnp.where(is_real[:, None], n, s) for n, s in zip(new, states, strict=True))
        return states, states[0]

    last, outputs = jax.lax.scan(step, initial_states, (from_x, mask, start), reverse=reverse)
    return outputs, last


def normal(name: int, *shape: int):
    return jax.random.normal(jax.random.key(name), shape)


def with_gradients(run, inputs):
    """Outputs and last states, and the gradients of their sum with uneven weights."""

    def scalar(inputs):
        out = run(*inputs)
        return jax.tree.reduce(jnp.add, jax.tree.map(weighted_sum, out)), out

    return jax.jit(jax.value_and_grad(scalar, has_aux=True))(inputs)


def weighted_sum(x):
    return (x * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)).sum()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("masked", "starts"), [(False, False), (True, True)])
@pytest.mark.parametrize(("cell", "update"), [(ELMAN, elman), (GRU, gru), (LSTM, lstm)])
def test_scan_cell_equals_a_plain_scan(cell, update, masked, starts, reverse):
    """Outputs, last states, and gradients by kernel, bias, initial states and inputs."""
    gates = cell.gates * WIDTH
    inputs = (
        normal(0, WIDTH, gates) / 2,
        normal(1, gates),
        tuple(normal(2 + n, ROWS, WIDTH) for n in range(cell.states)),
        normal(4, STEPS, ROWS, gates),
    )
    mask = jnp.asarray([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    start = jnp.asarray([[0, 1, 0], [0, 0, 0], [1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]], bool)

    def ours(*inputs):
        steps = (mask if masked else None, reverse, start if starts else None)
        return scan_cell(cell, *inputs, *steps)

    def reference(*inputs):
        return plain_scan(update, *inputs, mask | (not masked), reverse, start & starts)

    results = with_gradients(ours, inputs), with_gradients(reference, inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), *results)
