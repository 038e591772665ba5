"""What the last dense layer of a trained model reads: the features that it has found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jdl.types import Array, Batch, Error, Run, Variables


def reader(run: Run) -> Callable[[Variables, Batch], Array]:
    """The function from variables and a batch to the features (..., D); `Error` where there is no dense layer."""
    predict = run.learner.objective.predict

    def read(variables: Variables, batch: Batch) -> Array:
        found: list[Array] = []

        def seen(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
                found.append(args[0])
            return following(*args, **kwargs)

        with nn.intercept_methods(seen):
            if predict:
                predict(variables, batch)
        if not found:
            raise Error(
                f"{run.config.name} predicts nothing by a dense layer, whose features could be read."
            )
        return found[-1]

    return read
