"""The beginning of clusters: a learner that at one of its steps puts centres where k-means does."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.objectives.clustering import BEGUN, CENTRES, squares
from jdl.types import Array, Batch, Error, Halves, Key, Learner, Metrics, State


def kmeans_init(learner: Learner, begins: int, rows: Batch, restarts: int = 20) -> Learner:
    """The learner of an objective `cluster`, whose centres are set before its step `begins`.

    By k-means of the codes of these rows, a batch of all of the data, or of a good share: the best of so many
    `restarts`. Until then it learns to make its rows alone.
    """
    say = learner.objective.predict
    if begins < 0 or restarts < 1:
        raise Error(
            f"begins is a step from 0 on and restarts at least 1; given were {begins=} and {restarts=}."
        )

    def set_up(state: State) -> State:
        assert say is not None
        codes = say({"params": state.params, **state.model_state}, rows)["code"]
        key = stream(state.key, "centres")
        centres, spread = k_means(
            codes, len(state.params[CENTRES]), key, restarts, rows.get("mask")
        )
        spread = spread.clip(1e-6)  # where all lie on their centres
        model_state = {**state.model_state, BEGUN: {"begun": jnp.ones(()), "spread": spread}}
        return replace(state, params={**state.params, CENTRES: centres}, model_state=model_state)

    def due(state: State) -> State:
        return jax.lax.cond(state.step == begins, set_up, lambda state: state, state)

    def init(key: Key, batch: Batch) -> State:
        state = learner.init(key, batch)
        if BEGUN not in state.model_state or say is None:
            raise Error("clustered takes a learner of jdl.objectives.clustering.")
        if len(rows["x"]) < len(state.params[CENTRES]):
            raise Error(
                f"{len(rows['x'])} rows have no {len(state.params[CENTRES])} centres: give more of the data."
            )
        return due(state)

    def moved(found: tuple[State, Metrics]) -> tuple[State, Metrics]:
        return due(found[0]), found[1]

    def halved(halves: Halves) -> Halves:
        return replace(halves, update=lambda state, sums: moved(halves.update(state, sums)))

    return replace(
        learner,
        init=init,
        step=lambda state, batch: moved(learner.step(state, batch)),
        halves=halved(learner.halves) if learner.halves else None,
    )


def k_means(
    x: Array,
    clusters: int,
    key: Key,
    restarts: int = 20,
    mask: Array | None = None,
    rounds: int = 100,
) -> tuple[Array, Array]:
    """Centres (clusters, D) of rows x (N, D) that are real by `mask` (N,), by Lloyd's algorithm (1982).

    And the mean squared distance of a row from its centre.

    The best of so many starts, each of rows drawn far from each other (k-means++; Arthur and Vassilvitskii, 2007).
    """
    weights = jnp.ones(len(x)) if mask is None else mask.astype(x.dtype)

    def start(key: Key) -> Array:
        def one_more(n: Array, centres: Array) -> Array:
            far = jnp.where(jnp.arange(clusters)[None] < n, squares(x, centres), jnp.inf).min(-1)
            chances = weights * jnp.where(n == 0, 1, far.clip(1e-12))
            row = jax.random.categorical(jax.random.fold_in(key, n), jnp.log(chances))
            return centres.at[n].set(x[row])

        return jax.lax.fori_loop(0, clusters, one_more, jnp.zeros((clusters, x.shape[1])))

    def move(_: Array, centres: Array) -> Array:
        mine = jax.nn.one_hot(squares(x, centres).argmin(-1), clusters) * weights[:, None]
        count = mine.sum(0)[:, None]
        return jnp.where(count > 0, mine.T @ x / count.clip(1), centres)

    def one(key: Key) -> tuple[Array, Array]:
        centres = jax.lax.fori_loop(0, rounds, move, start(key))
        return centres, (weights * squares(x, centres).min(-1)).sum()

    centres, losses = jax.lax.map(one, jax.random.split(key, restarts))
    return centres[losses.argmin()], losses.min() / weights.sum()
