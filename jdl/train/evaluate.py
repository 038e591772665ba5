"""Evaluation: the objective's loss and metrics over each example of a dataset once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.keys import stream
from jdl.learners.shared_programs import jit
from jdl.metrics import Rows, merge
from jdl.types import Array, Learner, Loader, Mean, Metric, Metrics, State, Variables

USE_MASK = "jdl.Mean.of(values, batch['mask']), or jdl.metrics.Rows.of(..., mask=batch['mask'])"


@dataclass(eq=False)
class Evaluator:
    """Evaluation: a function from a state to its loss and metrics over all of the data.

    It evaluates the learner's `eval_variables`. The model state is passed from batch to batch, for
    stateful models, which reset it at the `start` of each stream. At its first call it says by
    `note` which metrics count padding.
    """

    learner: Learner
    data: Loader
    note: Callable[[str], None] | None = None

    def __call__(self, state: State) -> Metrics:
        """Evaluates a state; compiles at the first call."""
        variables = self.learner.eval_variables(state)
        model_state = {name: v for name, v in variables.items() if name != "params"}
        batches, before, raw = [], model_state, None
        for i, raw in enumerate(islice(self.data.read(), len(self.data))):
            before = model_state
            metrics, model_state = self._compiled(state, before, raw, np.int32(i), np.bool_(True))
            batches.append(metrics)
        note, self.note = self.note, None
        raises_at_nan = jax.config.jax_debug_nans  # type: ignore[attr-defined]
        can_ask = "mask" in self.data.spec and not raises_at_nan  # 0 / 0 of no row
        if note and can_ask and (real := real_rows_of_last(self.data)):
            last = np.int32(len(batches) - 1)
            unreal, _ = self._compiled(state, before, raw, last, np.bool_(False))
            if text := padding_note(batches, unreal, self.data.batch_size, real):
                note(text)
        return merge(batches)

    @cached_property
    def _compiled(self) -> Any:
        return jit(self._evaluate_batch)

    def _evaluate_batch(
        self, state: State, model_state: Variables, raw: Any, i: Array, real: Array
    ) -> tuple[Metrics, Variables]:
        """The metrics of a batch; where `real` is false, as if all of its rows were padding."""
        key = jax.random.fold_in(stream(state.key, "evaluate", state.step), i)
        variables = {**self.learner.eval_variables(state), **model_state}
        batch = dict(self.data.batch(raw, i))
        if "mask" in batch:
            batch["mask"] = jnp.where(real, batch["mask"], jnp.zeros_like(batch["mask"]))
        output = self.learner.objective.loss(variables, batch, key, False)
        return {"loss": output.loss, **output.metrics}, output.model_state


def evaluator(
    learner: Learner, data: Loader, note: Callable[[str], None] | None = None
) -> Evaluator:
    """The function from a state to its metrics over all of the data."""
    return Evaluator(learner, data, note)


def real_rows_of_last(data: Loader) -> int:
    """The number of real rows in the last batch where it is padded; 0 where it is full."""
    return data.num_examples % data.batch_size


def padding_note(batches: Sequence[Metrics], unreal: Metrics, rows: int, real: int) -> str:
    """Which metrics count padding: the last batch's are the same `unreal`, with no row in its mask.

    "" where none does.
    """
    *others, last = batches
    names = [
        name
        for name, metric in last.items()
        if _ignores_mask(metric, unreal[name], [batch[name] for batch in others], rows)
    ]
    if not names:
        return ""
    what = ["the loss"] * ("loss" in names)
    metrics = ", ".join(name for name in names if name != "loss")
    what += [f"the metric {metrics}"] if metrics else []
    return (
        f"padding counts in {' and '.join(what)}, without the mask: {real:,} of the {rows:,} rows "
        f"of the last batch are real. Use {USE_MASK}"
    )


def _ignores_mask(metric: Metric, unreal: Metric, others: Sequence[Metric], rows: int) -> bool:
    """Whether a metric is the same without any row in its mask.

    One that is the same in all batches is of no rows: a temperature, say.
    """
    if isinstance(metric, Mean) and isinstance(unreal, Mean) and metric.count >= rows:
        return bool(metric.count == unreal.count)
    of_rows = isinstance(metric, Rows) or any(_bits(other) != _bits(metric) for other in others)
    return of_rows and _bits(metric) == _bits(unreal)


def _bits(metric: Metric) -> list[bytes]:
    metric = metric.on_host() if isinstance(metric, Rows) else metric
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(metric)]
