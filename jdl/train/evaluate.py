"""Evaluation: the objective's loss and metrics over every example of a data set once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import jax
import numpy as np

from jdl.keys import stream
from jdl.metrics import merge
from jdl.types import Array, Learner, Loader, Metrics, State, Variables


@dataclass(frozen=True, eq=False)
class Evaluator:
    """The metrics of a state, `loss` among them, over all of the data together.

    The batches are evaluated by the learner's `eval_variables`. The model state goes on from batch
    to batch: a stateful model that reads streams resets its state at their `start`.
    """

    learner: Learner
    data: Loader

    def __call__(self, state: State) -> Metrics:
        """Evaluates; compiled at the first call. The state is only read."""
        variables = self.learner.eval_variables(state)
        model_state = {name: v for name, v in variables.items() if name != "params"}
        batches = []
        for i, source in enumerate(islice(self.data.read(), len(self.data))):
            metrics, model_state = self._compiled(state, model_state, source, np.int32(i))
            batches.append(metrics)
        return merge(batches)

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(self._evaluate_batch)

    def _evaluate_batch(
        self, state: State, model_state: Variables, source: Any, i: Array
    ) -> tuple[Metrics, Variables]:
        key = jax.random.fold_in(stream(state.key, "evaluate", state.step), i)
        variables = {**self.learner.eval_variables(state), **model_state}
        batch = self.data.batch(source, i)
        output = self.learner.objective.loss(variables, batch, key, False)
        return {"loss": output.loss, **output.metrics}, output.model_state


def evaluator(learner: Learner, data: Loader) -> Evaluator:
    """The function from a state to its metrics over all of the data."""
    return Evaluator(learner, data)
