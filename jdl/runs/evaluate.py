"""Evaluation: the objective at the learner's view of a state, over every example of a dataset once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.metrics import merge
from jdl.types import Array, Data, Learner, Metrics, State


def evaluator(learner: Learner, data: Data) -> Callable[[State], Metrics]:
    """The function from a state to the metrics, `loss` among them, of all of the data together.

    It is compiled once; the state is only looked at.
    """

    @jax.jit
    def look(state: State, source: Any, i: Array) -> Metrics:
        key = jax.random.fold_in(stream(state.key, "evaluate", state.step), i)
        out = learner.objective.loss(learner.view(state), data.batch(source, i), key, False)
        return {"loss": out.loss, **out.metrics}

    def evaluate(state: State) -> Metrics:
        sources = islice(data.read(), len(data))
        return merge([look(state, source, jnp.asarray(i, jnp.int32)) for i, source in enumerate(sources)])

    return evaluate
