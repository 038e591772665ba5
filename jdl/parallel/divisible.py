"""The check that a learner can be trained on parts of a batch, for pmap and elastic training."""

from __future__ import annotations

import jax

from jdl.data.dataflow import dependences
from jdl.types import (
    BATCH_STATS,
    CACHE,
    FP8_SCALES,
    Batch,
    Error,
    Key,
    Learner,
    Loader,
    State,
    Variables,
)


def check_divisible(learner: Learner, data: Loader, flag: str) -> None:
    """Raises `Error` where the learner cannot be trained on parts of a batch, as `flag` needs."""
    if not learner.has_grads:
        raise Error(
            f"{flag} needs a learner whose gradients are sums over the batch, like jdl.descent."
        )
    state = jax.eval_shape(learner.init, jax.eval_shape(jax.random.key, 0), data.spec)
    if CACHE in state.model_state:
        raise Error(
            f"{flag} cannot divide a stateful model, which continues from the batch before: use "
            "RNN(stateful=False)."
        )
    changed = _changed_collections(learner, state, data.spec) - {BATCH_STATS}
    changed |= {FP8_SCALES} & set(state.model_state)
    if changed:
        raise Error(
            f"{flag} cannot divide a model that changes its collection {min(changed)!r} in "
            f"training: of the parts of a batch it can only average {BATCH_STATS!r}. Train it on "
            "one device, or on several by --devices alone."
        )


def _changed_collections(learner: Learner, state: State, spec: Batch) -> set[str]:
    """The collections of the model state that the loss does not give back as they are."""

    def model_state(variables: Variables, batch: Batch, key: Key) -> Variables:
        return learner.objective.loss(variables, batch, key, True).model_state

    variables = {"params": state.params, **state.model_state}
    key = jax.eval_shape(jax.random.key, 0)
    jaxpr, shapes = jax.make_jaxpr(model_state, return_shape=True)(variables, spec, key)
    inputs = [path for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    outputs = [path for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    return {
        path[0].key
        for path, dependence in zip(outputs, dependences(jaxpr.jaxpr), strict=True)
        if dependence.copy_of is None or inputs[dependence.copy_of] != path
    }
