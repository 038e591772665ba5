"""Which learners can be given their batches part by part."""

from __future__ import annotations

import jax

from jdl.types import MEMORY, Loader, Error, Halves, Learner


def halves_of(learner: Learner, data: Loader, way: str) -> Halves:
    """The learner's halves, for a way that divides batches by hand; `Error` where that cannot be."""
    if learner.halves is None:
        raise Error(f"{way} needs a learner whose step sums over its batch, like jdl.descent.")
    if (
        MEMORY
        in jax.eval_shape(learner.init, jax.eval_shape(jax.random.key, 0), data.spec).model_state
    ):
        raise Error(
            f"{way} cannot divide a stateful model, which begins where the last batch ended: "
            "take RNN(stateful=False)."
        )
    return learner.halves
