"""K-means, and the initial cluster centers of deep clustering."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.learners.wrapper import Wrapper
from jdl.objectives.clustering import CENTERS, CLUSTERING, squared_distances
from jdl.types import Array, Batch, Error, Key, Learner, Metrics, Predicts, State


def k_means_init(learner: Learner, at_step: int, rows: Batch, restarts: int = 20) -> KMeansInit:
    """Initializes the centers of deep clustering by k-means of the embeddings, before `at_step`.

    For a learner of the objective `deep_clustering`, which trains the autoencoder alone until then
    (pretraining). `rows` is a batch with all of the data, or a large part of it. The best of
    `restarts` runs of k-means is taken.
    """
    if at_step < 0 or restarts < 1:
        raise Error(
            f"at_step must be at least 0 and restarts at least 1; got {at_step=}, {restarts=}."
        )
    return KMeansInit(learner, at_step, rows, restarts)


@dataclass(frozen=True, eq=False)
class KMeansInit(Wrapper):
    """K-means initialization of cluster centers; see `k_means_init`."""

    at_step: int
    rows: Batch
    restarts: int

    def init(self, key: Key, batch: Batch) -> State:
        """Checks that the objective has centers, and initializes them if `at_step` is 0."""
        state = self.learner.init(key, batch)
        if CLUSTERING not in state.model_state or not isinstance(self.objective, Predicts):
            raise Error("k_means_init takes a learner of jdl.objectives.deep_clustering.")
        rows, clusters = len(self.rows["x"]), len(state.params[CENTERS])
        if rows < clusters:
            raise Error(f"{rows} rows are too few for {clusters} centers: pass more of the data.")
        return self._initialized(state)

    def check_steps(self, steps: int) -> None:
        """Raises `Error` where a run of so many steps would only pretrain."""
        if self.at_step >= steps:
            raise Error(
                f"k_means_init begins to cluster at step {self.at_step:,}, and the run has "
                f"{steps:,} steps: the autoencoder alone would be trained. Give a smaller at_step, "
                "or more steps."
            )

    def after(self, old: State, new: State, metrics: Metrics) -> tuple[State, Metrics]:
        """Initializes the centers once the step is `at_step`."""
        return self._initialized(new), metrics

    def _initialized(self, state: State) -> State:
        return jax.lax.cond(
            state.step == self.at_step, self._set_centers, lambda state: state, state
        )

    def _set_centers(self, state: State) -> State:
        assert isinstance(self.objective, Predicts)
        variables = {"params": state.params, **state.model_state}
        embeddings = self.objective.predict(variables, self.rows)["code"]
        key, clusters = stream(state.key, "centers"), len(state.params[CENTERS])
        mask = self.rows.get("mask")
        centers, variance = k_means(embeddings, clusters, key, self.restarts, mask)
        variance = variance.clip(1e-6)  # 0 if every row lies on its center
        clustering = {"started": jnp.ones(()), "variance": variance}
        model_state = {**state.model_state, CLUSTERING: clustering}
        return replace(state, params={**state.params, CENTERS: centers}, model_state=model_state)


def k_means(
    x: Array,
    clusters: int,
    key: Key,
    restarts: int = 20,
    mask: Array | None = None,
    iterations: int = 100,
) -> tuple[Array, Array]:
    """K-means clustering by Lloyd's algorithm (1982): centers (clusters, D) of rows x (N, D).

    Returns the centers and the mean squared distance of a row from its center, of the best of the
    `restarts`. Each starts from rows sampled by k-means++ (Arthur and Vassilvitskii, 2007). Only
    rows whose `mask` (N,) is true count.
    """
    weights = jnp.ones(len(x)) if mask is None else mask.astype(x.dtype)

    def one_restart(key: Key) -> tuple[Array, Array]:
        start = _k_means_plus_plus(x, weights, clusters, key)
        centers = _lloyd(x, weights, start, iterations)
        return centers, (weights * squared_distances(x, centers).min(-1)).sum()

    centers, losses = jax.lax.map(one_restart, jax.random.split(key, restarts))
    return centers[losses.argmin()], losses.min() / weights.sum()


def _k_means_plus_plus(x: Array, weights: Array, clusters: int, key: Key) -> Array:
    """K-means++: initial centers (clusters, D), rows sampled far from earlier ones."""

    def add_center(n: Array, centers: Array) -> Array:
        distances = squared_distances(x, centers)
        nearest = jnp.where(jnp.arange(clusters)[None] < n, distances, jnp.inf).min(-1)
        probabilities = weights * jnp.where(n == 0, 1, nearest.clip(1e-12))
        row = jax.random.categorical(jax.random.fold_in(key, n), jnp.log(probabilities))
        return centers.at[n].set(x[row])

    return jax.lax.fori_loop(0, clusters, add_center, jnp.zeros((clusters, x.shape[1])))


def _lloyd(x: Array, weights: Array, centers: Array, iterations: int) -> Array:
    """Lloyd's algorithm: at most so many iterations, fewer once no center moves."""

    def moving(carry: tuple[Array, Array, Array]) -> Array:
        iteration, old, new = carry
        return (iteration < iterations) & (old != new).any()

    def iterate(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        iteration, _, centers = carry
        return iteration + 1, centers, _move_centers(x, weights, centers)

    start = (jnp.ones((), jnp.int32), centers, _move_centers(x, weights, centers))
    return jax.lax.while_loop(moving, iterate, start)[2]


def _move_centers(x: Array, weights: Array, centers: Array) -> Array:
    """Each center moves to the mean of its nearest rows; without rows it stays."""
    assigned = jax.nn.one_hot(squared_distances(x, centers).argmin(-1), len(centers))
    assigned = assigned * weights[:, None]
    count = assigned.sum(0)[:, None]
    return jnp.where(count > 0, assigned.T @ x / jnp.where(count > 0, count, 1), centers)
