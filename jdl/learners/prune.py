"""Pruning: weights that become exactly 0 and stay so, by magnitude or by movement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.learners.population import Population
from jdl.learners.wrapper import Wrapper, add_extra, set_extra
from jdl.objectives.lora import A, B
from jdl.objectives.override import override
from jdl.paths import by_path, path_name
from jdl.patterns import matching
from jdl.types import (
    Array,
    Batch,
    Error,
    Gradients,
    Key,
    Learner,
    Mean,
    Metrics,
    Objective,
    State,
    Variables,
)

By = Literal["magnitude", "movement", "random"]
Schedule = Callable[[Array], Any]
Arrays = Mapping[str, Array]  # by path


def prune(
    learner: Learner,
    sparsity: float | Schedule,
    targets: str = "",
    by: By = "magnitude",
    per_array: bool = False,
    every: int = 100,
) -> Prune:
    """Pruning (unstructured): the least of the weights become 0, and stay so, while it trains.

    `sparsity`, the share of the weights that is 0, is a number or a schedule, a function of the
    step: `optax.polynomial_schedule(0.0, 0.9, power=3, transition_steps=10_000)` is the cubic one
    of gradual pruning (Zhu and Gupta, 2017). More weights are pruned at the start (not by movement,
    as nothing has moved then) and after each `every` steps; none comes back, also where the
    schedule falls. `targets` is a regular
    expression, searched (`re.search`) in the paths of the parameters of two axes or more, like
    "Conv_0/kernel"; all of them by default, without biases, norms, what is frozen or quantized, and
    the adapters of LoRA, one of which begins with zeros.
    They are ranked together, or with `per_array` each array alone, `by` "magnitude" (Han et al.,
    2015), by "movement", the sum over the steps of -weight * gradient (Sanh et al., 2020, whose
    weights may come back), or at "random". A pruned weight is 0 after each step and in evaluation,
    whatever the optimizer's momentum adds. The metric `sparsity` is the share of the weights that
    is pruned. Averages of parameters go within: `jdl.prune(jdl.ema(learner), ...)`. Raises `Error`
    for a sparsity outside 0 to 1, and where nothing matches.
    """
    if by not in ("magnitude", "movement", "random"):
        raise Error(f'prune ranks weights by "magnitude", "movement" or "random", not by {by!r}.')
    if not callable(sparsity) and not 0 <= sparsity < 1:
        raise Error(f"sparsity, the share of weights that is 0, is from 0 to below 1: {sparsity}.")
    if every < 1:
        raise Error(f"prune takes the weights of every 1 step or more, not {every}.")
    if by == "movement" and not learner.has_grads:
        raise Error("This learner has no gradients to see a movement by: prune by magnitude.")
    if isinstance(learner, Population):
        raise Error("Prune each member alone: put jdl.population around jdl.prune.")
    schedule = sparsity if callable(sparsity) else lambda step: sparsity
    return Prune(learner, schedule, targets, by, per_array, every)


def prune_variables(
    variables: Variables, sparsity: float, targets: str = "", per_array: bool = False
) -> Variables:
    """Magnitude pruning after training: the variables with the smallest of their weights at 0.

    As `prune` does it; without more training, so that accuracy is lost early.
    """
    if not 0 <= sparsity < 1:
        raise Error(f"sparsity, the share of weights that is 0, is from 0 to below 1: {sparsity}.")
    magnitudes = {path: abs(x) for path, x in chosen(variables["params"], targets).items()}
    masks = smallest_pruned(magnitudes, sparsity, per_array)
    return {**variables, "params": masked(variables["params"], masks)}


def lottery_ticket(
    objective: Objective,
    trained: Objective,
    sparsity: float,
    at_random: bool = False,
    targets: str = "",
    per_array: bool = False,
) -> Objective:
    """A lottery ticket (Frankle and Carbin, 2019): a pruned model that begins anew (rewinding).

    It has the initial weights of `objective`, which the seed decides, but 0 where magnitude pruning
    to this sparsity makes the weights of `trained` 0: those of a `jdl.pretrained` model, which
    began with the same seed. With another seed the places are the same and the initial weights
    others: no ticket, but a control of the paper (random reinitialization). `targets` and
    `per_array` are those of `jdl.prune`, which to the same sparsity keeps the weights 0. With
    `at_random` as many weights of each array are 0 at other places, for comparison.
    """

    def init(key: Key, batch: Batch) -> Variables:
        variables = objective.init(key, batch)
        found = trained.init(stream(key, "trained"), batch)
        left = chosen(prune_variables(found, sparsity, targets, per_array)["params"], targets)
        masks = {path: x != 0 for path, x in left.items()}
        if at_random:
            masks = {p: _permuted(mask, stream(key, f"ticket {p}")) for p, mask in masks.items()}
        return {**variables, "params": masked(variables["params"], masks)}

    return override(objective, init=init)


def _permuted(mask: Array, key: Key) -> Array:
    return jax.random.permutation(key, mask.ravel()).reshape(mask.shape)


@dataclass(frozen=True, eq=False)
class Prune(Wrapper):
    """Pruning; see `prune`."""

    sparsity: Schedule
    targets: str
    by: By
    per_array: bool
    every: int

    def init(self, key: Key, batch: Batch) -> State:
        """The masks of the sparsity of step 0, and the parameters with them."""
        state = self.learner.init(key, batch)
        weights = chosen(state.params, self.targets)
        kept = {"masks": {path: jnp.ones(x.shape, bool) for path, x in weights.items()}}
        if self.by == "movement":  # nothing has moved yet: there is nothing to rank by
            kept["scores"] = {path: jnp.zeros(x.shape, x.dtype) for path, x in weights.items()}
            return add_extra(state, "prune", kept)
        return self._pruned(add_extra(state, "prune", kept))

    def grads(
        self, state: State, batch: Batch, key: Key, loss_scale: Array | float = 1.0
    ) -> Gradients:
        """The inner learner's gradients, without those of pruned weights."""
        gradients = self.learner.grads(state, batch, key, loss_scale)
        masks = state.extra["prune"]["masks"]
        return replace(gradients, grads=masked(gradients.grads, masks))

    def apply_gradients(self, state: State, gradients: Gradients) -> tuple[State, Metrics]:
        """The inner learner's update; the scores of movement see the gradients before it."""
        if self.by == "movement":
            count = gradients.output.loss.count
            count = jnp.where(count == 0, 1, count)
            grads, scores = by_path(gradients.grads), state.extra["prune"]["scores"]
            weights = by_path(state.params)
            moved = {p: s - weights[p] * grads[p] / count for p, s in scores.items()}
            state = set_extra(state, "prune", {**state.extra["prune"], "scores": moved})
        return super().apply_gradients(state, gradients)

    def after(self, old: State, new: State, metrics: Metrics) -> tuple[State, Metrics]:
        """The pruned weights at 0 again; after every so many steps, more of them."""
        kept = {**new.extra["prune"], "masks": old.extra["prune"]["masks"]}
        new = set_extra(new, "prune", kept)
        new = replace(new, params=masked(new.params, kept["masks"]))
        new = jax.lax.cond(new.step % self.every == 0, self._pruned, lambda state: state, new)
        masks = new.extra["prune"]["masks"].values()
        pruned = jnp.stack([(~mask).sum() for mask in masks]).sum().astype(jnp.float32)
        weights = jnp.asarray(sum(mask.size for mask in masks), jnp.float32)
        return new, {**metrics, "sparsity": Mean(pruned, weights)}

    def eval_variables(self, state: State) -> Variables:
        """The inner learner's variables, an average say, with the pruned weights at 0."""
        variables = self.learner.eval_variables(state)
        return {**variables, "params": masked(variables["params"], state.extra["prune"]["masks"])}

    def _pruned(self, state: State) -> State:
        """The state with as many weights pruned as the schedule says."""
        kept = state.extra["prune"]
        with jax.numpy_dtype_promotion("standard"):  # schedules mix types, as Optax's do
            sparsity = jnp.asarray(self.sparsity(state.step), jnp.float32)
        before = kept["masks"]
        scores = {p: jnp.where(before[p], x, -jnp.inf) for p, x in self._scores(state).items()}
        masks = smallest_pruned(scores, sparsity, self.per_array)
        masks = {path: mask & before[path] for path, mask in masks.items()}
        state = set_extra(state, "prune", {**kept, "masks": masks})
        return replace(state, params=masked(state.params, masks))

    def _scores(self, state: State) -> Arrays:
        weights = chosen(state.params, self.targets)
        if self.by == "movement":
            return state.extra["prune"]["scores"]
        if self.by == "magnitude":
            return {path: jnp.abs(x) for path, x in weights.items()}
        key = stream(state.key, "prune", state.step)
        return {p: jax.random.uniform(stream(key, p), x.shape) for p, x in weights.items()}


def chosen(params: Any, targets: str) -> dict[str, Array]:
    """The weights by path that are pruned: those whose path matches; `Error` where none does."""
    weights = prunable(params)
    return {path: weights[path] for path in matching(targets, weights, "prune", "weights")}


def prunable(params: Any) -> dict[str, Array]:
    """The weights by path: numbers of two axes or more, without LoRA's adapters."""
    return {
        path: x
        for path, x in by_path(params).items()
        if x.ndim > 1
        and jnp.issubdtype(x.dtype, jnp.floating)
        and path.rpartition("/")[2] not in (A, B)
    }


def masked(params: Any, masks: Arrays) -> Any:
    """The parameters, with 0 where the mask of a path is false."""

    def leaf(path: Any, x: Array) -> Array:
        mask = masks.get(path_name(path))
        return x if mask is None else jnp.where(mask, x, 0)

    return jax.tree_util.tree_map_with_path(leaf, params)


def smallest_pruned(scores: Arrays, sparsity: Array | float, per_array: bool) -> dict[str, Array]:
    """Masks that are false for the share `sparsity` of the smallest scores, together or by array.

    Exactly so many are false, rounded down: of equal scores the first ones.
    """
    if per_array:
        return {
            path: _mask(score.reshape(-1), sparsity).reshape(score.shape)
            for path, score in scores.items()
        }
    flat = jnp.concatenate([score.reshape(-1).astype(jnp.float32) for score in scores.values()])
    masks, start = _mask(flat, sparsity), 0
    found = {}
    for path, score in scores.items():
        found[path] = masks[start : start + score.size].reshape(score.shape)
        start += score.size
    return found


def _mask(scores: Array, sparsity: Array | float) -> Array:
    count = jnp.floor(jnp.clip(sparsity, 0.0, 1.0) * scores.size).astype(jnp.int32)
    threshold = jnp.sort(scores)[jnp.maximum(count - 1, 0)]
    below, equal = scores < threshold, scores == threshold
    return ~(below | (equal & (jnp.cumsum(equal) <= count - below.sum())))
