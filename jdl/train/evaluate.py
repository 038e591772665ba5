"""Evaluation: the objective at the learner's view of a state, over every example of a dataset once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import jax
import numpy as np

from jdl.keys import stream
from jdl.metrics import merge
from jdl.types import Array, Loader, Learner, Metrics, State, Variables


def evaluator(learner: Learner, data: Loader) -> Callable[[State], Metrics]:
    """The function from a state to the metrics, `loss` among them, of all of the data together.

    It is compiled once; the state is only looked at. What the loss carries goes on from batch to batch: the memory of a
    model that reads streams, which begins anew at their `start`.
    """

    @jax.jit
    def look(
        state: State, model_state: Variables, source: Any, i: Array
    ) -> tuple[Metrics, Variables]:
        key = jax.random.fold_in(stream(state.key, "evaluate", state.step), i)
        out = learner.objective.loss(
            {**learner.eval_variables(state), **model_state}, data.batch(source, i), key, False
        )
        return {"loss": out.loss, **out.metrics}, out.model_state

    def evaluate(state: State) -> Metrics:
        model_state = {
            name: variables
            for name, variables in learner.eval_variables(state).items()
            if name != "params"
        }
        found = []
        for i, source in enumerate(islice(data.read(), len(data))):
            metrics, model_state = look(state, model_state, source, np.int32(i))
            found.append(metrics)
        return merge(found)

    return evaluate
