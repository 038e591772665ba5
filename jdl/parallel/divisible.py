"""The check that a learner can be trained on parts of a batch, for pmap and elastic training."""

from __future__ import annotations

import jax

from jdl.types import CACHE, Error, Learner, Loader


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
