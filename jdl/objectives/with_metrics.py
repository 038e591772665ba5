"""More metrics for any objective that predicts: functions of its predictions and the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jdl.objectives.override import override
from jdl.types import (
    Batch,
    Error,
    Key,
    LossOutput,
    Metric,
    Objective,
    Predicts,
    Variables,
)

MetricFunction = Callable[[Batch, Batch], Metric]  # (predictions, batch) -> metric


def with_metrics(objective: Objective, **metrics: MetricFunction) -> Objective:
    """The same objective with more metrics in evaluation; training stays as it is.

    Each metric is a function of what `objective.predict` gives and of the batch, to be merged over
    all batches: `with_metrics(classify(model), auc=jdl.metrics.roc_auc)`. The model is called by
    the loss and by `predict`; XLA computes equal calls once. Raises `Error` if the objective does
    not predict, or has a metric of that name.
    """
    if not isinstance(objective, Predicts):
        raise Error(
            f"{type(objective).__name__} predicts nothing, and metrics are functions of "
            "predictions: give it a method predict(variables, batch)."
        )

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        output = objective.loss(variables, batch, key, train)
        if train:
            return output
        if taken := sorted(metrics.keys() & {"loss", *output.metrics}):
            raise Error(f"The objective has the metric {taken[0]} already: choose another name.")
        predictions = objective.predict(variables, batch)
        more = {name: _of(name, metric, predictions, batch) for name, metric in metrics.items()}
        return replace(output, metrics={**output.metrics, **more})

    return override(objective, loss=loss)


def _of(name: str, metric: MetricFunction, predictions: Batch, batch: Batch) -> Metric:
    try:
        return metric(predictions, batch)
    except KeyError as error:
        raise Error(
            f"The metric {name} asks for {error}: the predictions have the columns "
            f"{', '.join(predictions)}, and the batch has {', '.join(batch)}."
        ) from error
