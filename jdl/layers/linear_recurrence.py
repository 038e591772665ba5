"""Linear recurrences over time, by an associative scan."""

from __future__ import annotations

import jax
from jax import lax


def linear_recurrence(
    a: jax.Array, b: jax.Array, first: jax.Array, one_by_one: bool = False
) -> jax.Array:
    """Linear recurrence h(t) = a(t) h(t - 1) + b(t), by an associative scan (Blelloch, 1990).

    All steps are computed at once: a and b (B, T, C), and the state before the first step (B, C),
    give all states (B, T, C). T steps are log(T) rounds over all of them, on GPUs and TPUs in
    parallel (Martin and Cundy, 2018). `one_by_one`, and where T is symbolic (`jax.export`), it is a
    loop, whose bits do not depend on how T is known.
    """
    b = b.at[:, 0].add(a[:, 0] * first)
    if one_by_one or not isinstance(a.shape[1], int):
        return _one_by_one(a, b)
    return lax.associative_scan(_compose, (a, b), axis=1)[1]


def _compose(
    earlier: tuple[jax.Array, jax.Array], later: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Two steps h -> a h + b as one."""
    return earlier[0] * later[0], later[0] * earlier[1] + later[1]


def _one_by_one(a: jax.Array, b: jax.Array) -> jax.Array:
    """The same by a loop over the steps."""

    def step(h: jax.Array, ab: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        h = ab[0] * h + ab[1]
        return h, h

    # The first step's b holds the state before it.
    states = lax.scan(step, b[:, 0] * 0, (a.swapaxes(0, 1), b.swapaxes(0, 1)))[1]
    return states.swapaxes(0, 1)
