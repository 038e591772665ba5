"""Evaluation: the objective's loss and metrics over each example of a dataset once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import jax
import numpy as np

from jdl.keys import stream
from jdl.learners.shared_programs import jit
from jdl.metrics import merge
from jdl.types import Array, Learner, Loader, Metrics, State, Variables


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Evaluation: a function from a state to its loss and metrics over all of the data.

    It evaluates the learner's `eval_variables`. The model state is passed from batch to batch, for
    stateful models, which reset it at the `start` of each stream.
    """

    learner: Learner
    data: Loader

    def __call__(self, state: State) -> Metrics:
        """Evaluates a state; compiles at the first call."""
        variables = self.learner.eval_variables(state)
        model_state = {name: v for name, v in variables.items() if name != "params"}
        batches = []
        for i, raw in enumerate(islice(self.data.read(), len(self.data))):
            metrics, model_state = self._compiled(state, model_state, raw, np.int32(i))
            batches.append(metrics)
        return merge(batches)

    @cached_property
    def _compiled(self) -> Any:
        return jit(self._evaluate_batch)

    def _evaluate_batch(
        self, state: State, model_state: Variables, raw: Any, i: Array
    ) -> tuple[Metrics, Variables]:
        key = jax.random.fold_in(stream(state.key, "evaluate", state.step), i)
        variables = {**self.learner.eval_variables(state), **model_state}
        batch = self.data.batch(raw, i)
        output = self.learner.objective.loss(variables, batch, key, False)
        return {"loss": output.loss, **output.metrics}, output.model_state


def evaluator(learner: Learner, data: Loader) -> Evaluator:
    """The function from a state to its metrics over all of the data."""
    return Evaluator(learner, data)
