"""Validation of a run (config, data, objective, hooks) before anything is compiled or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict

from jdl.layers.nnx_calls import intercept_calls
from jdl.learners.check_loss import check_output
from jdl.learners.wrapper import unwrapped
from jdl.metrics import Confusion
from jdl.objectives.override import unwrapped_objective
from jdl.objectives.quantiles import Quantiles
from jdl.objectives.regression import Regression
from jdl.run import Run
from jdl.train.check_parts import (
    check_annealing,
    check_hook,
    check_loader,
    check_step,
    check_variables,
    explained,
)
from jdl.train.epochs import check_epochs
from jdl.train.placement import splits
from jdl.types import Batch, Bounds, Error, Key, Metrics

CONVOLUTIONS = (nn.Conv, nn.ConvTranspose, nnx.Conv, nnx.ConvTranspose)


def check_run(run: Run) -> None:
    """Raises `Error` where config, data, objective and hooks do not fit together."""
    if not run.config.name:
        raise Error("The config has no name: set name=..., which names the folder of its runs.")
    check_epochs(run)
    mode, _, metric = run.best.partition(" ")
    if mode not in ("max", "min") or not metric:
        raise Error(f'Run.best must be "max METRIC" or "min METRIC", not {run.best!r}.')
    if run.config.patience and run.valid is None:
        raise Error(
            "Early stopping (--patience) needs a validation set, Run(valid=...): stopping by the "
            "test set would bias the test result. Split one off: "
            "train, valid = train.split(0.9, 0.1)."
        )
    _check_steps(run)
    _check_stored_columns(run)
    for hook in run.hooks:
        check_hook(hook)
    for split, data in splits(run).items():
        check_loader(split, data)
    with explained(run), _checked_channels(run.train.spec):
        _check_data(run)
        names = metric_names(run)
        check_annealing(run.learner, run.train.spec)
    if metric not in names:
        raise Error(
            f"Run.best names the metric {metric!r}, but this objective has {', '.join(names)}."
        )


@contextmanager
def _checked_channels(spec: Batch) -> Iterator[None]:
    """Within the block a convolution raises `Error` where x lacks the axis of its channels.

    Flax would take such a batch for one image, and its rows for pixels.
    """
    x = spec.get("x")

    def check(layer: Any, inputs: Sequence[Any]) -> None:
        if x is None or not isinstance(layer, CONVOLUTIONS) or not inputs:
            return
        axes = 1 if isinstance(layer.kernel_size, int) else len(layer.kernel_size)
        if getattr(inputs[0], "shape", None) == x.shape and len(x.shape) == axes + 1:
            raise Error(
                f"x has no channel axis: {type(layer).__name__} would take a batch of shape "
                f"{x.shape} for one row, and mix its rows. Give it x[..., None]."
            )

    def of_linen(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        check(context.module, args)
        return call(*args, **kwargs)

    def of_nnx(path: str, layer: Any, inputs: Sequence[Any], output: Any) -> Any:
        check(layer, inputs)
        return output

    with nn.intercept_methods(of_linen), intercept_calls(of_nnx):
        yield


def _check_data(run: Run) -> None:
    """Raises `Error` where the data do not fit the objective.

    Splits whose batches are alike are checked together, with the bounds of both: each check traces
    the model.
    """
    found: dict[Any, tuple[Batch, Bounds]] = {}
    for data in splits(run).values():
        columns = frozenset((name, x.shape, x.dtype) for name, x in data.spec.items())
        spec, bounds = found.get(columns, (data.spec, {}))
        found[columns] = (spec, _union(bounds, data.bounds))
    for spec, bounds in found.values():
        run.learner.objective.check(spec, bounds)
    _check_codes(run)


def _check_codes(run: Run) -> None:
    """Raises `Error` where regression would fit the numbers of classes."""
    objective = unwrapped_objective(run.learner.objective)
    names = getattr(getattr(run.train, "dataset", None), "labels", ())
    y = run.train.spec.get("y")
    if not names or y is None or not jnp.issubdtype(y.dtype, jnp.integer):
        return
    if isinstance(objective, Regression | Quantiles):
        raise Error(
            f"The targets y are the numbers of the classes {', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}, and regression would fit these numbers. If the "
            'texts are numbers with a unit, such as "12 nM", take the unit out of the column; if '
            "the numbers are meant, make them floats; else use jdl.objectives.classify or "
            "jdl.objectives.ordinal."
        )


def _union(*bounds: Bounds) -> Bounds:
    def of_column(name: str) -> tuple[float, float]:
        lowest, highest = zip(*(each[name] for each in bounds if name in each), strict=True)
        return min(lowest), max(highest)

    return {name: of_column(name) for each in bounds for name in each}


def _check_steps(run: Run) -> None:
    """Raises `Error` where a learner or a wrapper begins at a step that the run has not."""
    for learner in unwrapped(run.learner):
        learner.check_steps(run.config.steps)


def _check_stored_columns(run: Run) -> None:
    """Raises `Error` where columns were computed once for each row, and the rows are augmented."""
    stored = run.learner.objective.stored_columns
    if stored and run.train.augmented:
        raise Error(
            f"The column {stored[0]} was computed once for each row, and the training rows are "
            "augmented: it would be that of other rows. Leave out the augmentation, or give "
            "jdl.distil the teacher itself. Transforms of all rows belong in dataset.map(...), "
            "before the column is computed."
        )


def _check_labels(run: Run, metrics: Metrics) -> None:
    """Raises `Error` where the objective tells more classes apart than have names."""
    for metric in metrics.values():
        if isinstance(metric, Confusion) and 0 < len(run.labels) < len(metric.counts):
            raise Error(
                f"Run(labels=...) names {len(run.labels)} classes, and the model has "
                f"{len(metric.counts)}: give each class a name, in order, or leave labels out."
            )


def metric_names(run: Run) -> list[str]:
    """The names of the metrics of an evaluation, by `jax.eval_shape`: nothing is computed.

    Raises `Error` where learner or objective break their contract.
    """
    learner = run.learner

    def evaluate(key: Key, batch: Batch) -> dict[str, Any]:
        first = learner.init(key, batch)
        state, of_step = learner.step(first, batch)
        check_step(learner, first, state, of_step)
        variables = learner.eval_variables(state)
        check_variables(learner, variables)
        output = learner.objective.loss(variables, batch, key, False)
        check_output(learner.objective, output)
        metrics = {"loss": output.loss, **output.metrics}
        _check_labels(run, metrics)
        return {name: metric.value() for name, metric in metrics.items()}

    key = jax.eval_shape(jax.random.key, 0)
    return sorted(flatten_dict(jax.eval_shape(evaluate, key, run.train.spec), sep="/"))
