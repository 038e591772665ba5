"""Which learners can be given a batch part by part."""

from __future__ import annotations

import jax

from jdl.types import CACHE, Error, Learner, Loader


def check_divisible(learner: Learner, data: Loader, flag: str) -> None:
    """Raises `Error` where `flag` divides batches by hand and the learner cannot be divided so."""
    if not learner.has_grads:
        raise Error(f"{flag} needs a learner whose step sums over its batch, like jdl.descent.")
    state = jax.eval_shape(learner.init, jax.eval_shape(jax.random.key, 0), data.spec)
    if CACHE in state.model_state:
        raise Error(
            f"{flag} cannot divide a stateful model, which goes on from the batch before: take "
            "RNN(stateful=False)."
        )
