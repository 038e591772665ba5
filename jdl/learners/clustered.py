"""The beginning of clusters: a learner that at one of its steps puts centres where k-means does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.objectives.cluster import BEGUN, CENTRES
from jdl.types import Array, Batch, Error, Key, Learner, Metrics, State, Variables


def clustered(learner: Learner, begins: int, rows: Batch, restarts: int = 20) -> Learner:
    """The learner of an objective `cluster`, whose centres are set before its step `begins`.

    By k-means of the codes of these rows, a batch of all of the data, or of a good share: the best of so many
    `restarts`. Until then it learns to make its rows alone. It does not take its batches in parts.
    """
    say = learner.objective.predict
    if begins < 0 or restarts < 1:
        raise Error(f"begins is a step from 0 on and restarts at least 1; given were {begins=} and {restarts=}.")

    def init(key: Key, batch: Batch) -> State:
        state = learner.init(key, batch)
        if BEGUN not in state.carry or say is None:
            raise Error("clustered takes a learner of jdl.objectives.cluster.")
        if len(rows["x"]) < len(state.params[CENTRES]):
            raise Error(f"{len(rows['x'])} rows have no {len(state.params[CENTRES])} centres: give more of the data.")
        return state

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        def set_up(params: Any, carry: Variables) -> tuple[Any, Variables]:
            assert say is not None
            codes = say({"params": params, **carry}, rows)["code"]
            key = stream(state.key, "centres")
            centres, spread = k_means(codes, len(params[CENTRES]), key, restarts, rows.get("mask"))
            return {**params, CENTRES: centres}, {**carry, BEGUN: {"begun": jnp.ones(()), "spread": spread}}

        def left(params: Any, carry: Variables) -> tuple[Any, Variables]:
            return params, carry

        params, carry = jax.lax.cond(state.step == begins, set_up, left, state.params, state.carry)
        return learner.step(replace(state, params=params, carry=carry), batch)

    return replace(learner, init=init, step=step, halves=None)


def k_means(
    x: Array, clusters: int, key: Key, restarts: int = 20, mask: Array | None = None, rounds: int = 100
) -> tuple[Array, Array]:
    """Centres (clusters, D) of rows x (N, D) that are real by `mask` (N,), by Lloyd's algorithm (1982).

    And the mean squared distance of a row from its centre.

    The best of so many starts, each of rows drawn far from each other (k-means++; Arthur and Vassilvitskii, 2007).
    """
    weights = jnp.ones(len(x)) if mask is None else mask.astype(x.dtype)

    def apart(centres: Array) -> Array:
        """The squares of distances, (N, clusters)."""
        return jnp.square(x[:, None] - centres[None]).sum(-1)

    def start(key: Key) -> Array:
        def one_more(n: Array, centres: Array) -> Array:
            far = jnp.where(jnp.arange(clusters)[None] < n, apart(centres), jnp.inf).min(-1)
            chances = weights * jnp.where(n == 0, 1, far.clip(1e-12))
            row = jax.random.categorical(jax.random.fold_in(key, n), jnp.log(chances))
            return centres.at[n].set(x[row])

        return jax.lax.fori_loop(0, clusters, one_more, jnp.zeros((clusters, x.shape[1])))

    def move(_: Array, centres: Array) -> Array:
        mine = jax.nn.one_hot(apart(centres).argmin(-1), clusters) * weights[:, None]
        count = mine.sum(0)[:, None]
        return jnp.where(count > 0, mine.T @ x / count.clip(1), centres)

    def one(key: Key) -> tuple[Array, Array]:
        centres = jax.lax.fori_loop(0, rounds, move, start(key))
        return centres, (weights * apart(centres).min(-1)).sum()

    centres, losses = jax.lax.map(one, jax.random.split(key, restarts))
    return centres[losses.argmin()], losses.min() / weights.sum()
