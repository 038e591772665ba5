"""The scan with its own gradients against a plain one of the textbooks' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdl.layers import ELMAN, GRU, LSTM, recur

STEPS, ROWS, WIDTH = 6, 3, 4


def simple(states, x, r):
    return (jnp.tanh(x + r),)


def gru(states, x, r):
    (reset_x, update_x, new_x), (reset_r, update_r, new_r) = (
        jnp.split(x, 3, -1),
        jnp.split(r, 3, -1),
    )
    reset, update = jax.nn.sigmoid(reset_x + reset_r), jax.nn.sigmoid(update_x + update_r)
    new = jnp.tanh(new_x + reset * new_r)
    return ((1 - update) * new + update * states[0],)


def lstm(states, x, r):
    enter, forget, new, leave = jnp.split(x + r, 4, -1)
    c = jax.nn.sigmoid(forget) * states[1] + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return jax.nn.sigmoid(leave) * jnp.tanh(c), c


def plain(update, kernel, bias, start, xs, mask, reverse):
    def step(states, now):
        x, real = now
        new = update(states, x, states[0] @ kernel + bias[None])
        states = tuple(jnp.where(real[:, None], n, s) for n, s in zip(new, states, strict=True))
        return states, states[0]

    end, outputs = jax.lax.scan(step, start, (xs, mask), reverse=reverse)
    return outputs, end


def normal(name: int, *shape: int):
    return jax.random.normal(jax.random.key(name), shape)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("cell", "update"), [(ELMAN, simple), (GRU, gru), (LSTM, lstm)])
def test_recur_is_a_plain_scan(cell, update, masked, reverse):
    """Outputs, last states, and the gradients of both by kernel, bias, first states and inputs."""
    wide = cell.gates * WIDTH
    inputs = (
        normal(0, WIDTH, wide) / 2,
        normal(1, wide),
        tuple(normal(2 + n, ROWS, WIDTH) for n in range(cell.states)),
        normal(4, STEPS, ROWS, wide),
    )
    mask = jnp.asarray([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)

    def of(run):
        def scalar(inputs):
            out = run(*inputs)
            weights = jax.tree.map(
                lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), out
            )
            return jax.tree.reduce(
                jnp.add, jax.tree.map(lambda x, w: (x * w).sum(), out, weights)
            ), out

        return jax.jit(jax.value_and_grad(scalar, has_aux=True))(inputs)

    found = of(lambda *inputs: recur(cell, *inputs, mask if masked else None, reverse))
    everything = jnp.ones_like(mask)
    expected = of(lambda *inputs: plain(update, *inputs, mask if masked else everything, reverse))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), found, expected
    )
