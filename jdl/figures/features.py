"""Features: the penultimate activations of a trained model, the input of its last dense layer."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from jdl.run import Run
from jdl.types import Array, Batch, Error, Predicts, Variables


def features(run: Run, variables: Variables, batch: Batch) -> Batch:
    """The features (..., D) of a batch, as the column `features`.

    They are the input of the last dense layer that the run's predictions use; `Error` if these use
    none.
    """
    inputs: list[Array] = []

    def record_input(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            inputs.append(args[0])
        return next_call(*args, **kwargs)

    objective = run.learner.objective
    if isinstance(objective, Predicts):
        with nn.intercept_methods(record_input):
            objective.predict(variables, batch)
    if not inputs:
        raise Error(
            f"The predictions of {run.config.name} use no dense layer, so it has no features: use "
            "a model with an nn.Dense."
        )
    return {"features": inputs[-1]}
