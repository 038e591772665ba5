"""Which number of a model's output is explained, as a function of its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.objectives.classification import BinaryClassification
from jdl.objectives.model_call import column
from jdl.objectives.override import innermost
from jdl.types import Array, Batch, Error, Objective, Predicts, Variables


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Score:
    """The score of a class: of each row one number of the model's output, a function of x.

    It is a logit, before any softmax, or a predicted number: `score(x)` gives (B,) for x (B, ...).
    The other columns of the batch stay as they are.
    """

    objective: Objective = field(metadata={"static": True})
    variables: Variables
    batch: Batch
    chosen: Array  # (B,) of int32: which of the outputs
    sign: Array | float = 1.0  # (B,): -1 where a binary classifier predicts 0, as it has one logit

    def __call__(self, x: Array) -> Array:
        """The scores (B,) of inputs x (B, ...)."""
        out = outputs(self.objective, self.variables, {**self.batch, "x": x})
        return self.sign * jnp.take_along_axis(out, self.chosen[:, None], 1)[:, 0]


def score(
    objective: Objective,
    variables: Variables,
    batch: Batch,
    chosen: Array | Sequence[int] | int | None = None,
) -> Score:
    """The score of an output of each row: that with the index `chosen`, of each row (B,) or of all.

    By default it is that of the predicted class, or the one predicted number; of a binary
    classifier (B, 1) the logit of the class that is predicted. Raises `Error` where x are no
    floats, where a row has other outputs than (B, K) or (B,), where `chosen` is none of them, and
    where there are several of which none stands for a class (as of quantiles) and none is chosen.
    """
    if not jnp.issubdtype(column(batch).dtype, jnp.floating):
        raise Error(
            f"x is {batch['x'].dtype}, and a gradient needs floats: tokens and codes have none."
        )
    sign: Array | float = 1.0
    if chosen is not None:
        shape = jax.eval_shape(partial(outputs, objective), variables, batch).shape
        places = np.asarray(chosen)
        fits = places.dtype.kind in "iu" and places.shape in ((), shape[:1])
        if not fits or (places < 0).any() or (places >= shape[1]).any():
            raise Error(
                f"chosen is the index of an output, from 0 to {shape[1] - 1}, of each of "
                f"{shape[0]} rows or of all, not {chosen!r}."
            )
        chosen = np.broadcast_to(places, shape[:1])
    else:
        out = jax.jit(outputs, static_argnums=0)(objective, variables, batch)
        if out.shape[1] > 1 and not _is_classifier(objective, variables, batch, out.shape):
            raise Error(
                f"The model gives {out.shape[1]} numbers a row, and none stands for a class: "
                "jdl.explain.score(..., chosen=K) explains one of them."
            )
        chosen = out.argmax(-1)
        if isinstance(innermost(objective, variables)[0], BinaryClassification):
            sign = jnp.where(out[:, 0] > 0, 1.0, -1.0)
    return Score(objective, variables, batch, jnp.asarray(chosen, jnp.int32), sign)


def _is_classifier(
    objective: Objective, variables: Variables, batch: Batch, shape: tuple[int, ...]
) -> bool:
    """Whether each output (B, K) is the logit of a class."""
    if not isinstance(objective, Predicts):
        return False
    found = jax.eval_shape(objective.predict, variables, batch)
    return "label" in found and "probability" in found and found["probability"].shape == shape


def outputs(objective: Objective, variables: Variables, batch: Batch) -> Array:
    """The model's outputs (B, K) in evaluation: logits, or numbers; `Error` for other shapes."""
    call: Any = getattr(objective, "outputs", None)
    if call is None:
        raise Error(
            f"{type(objective).__name__} has no one model with one output: classify, regress and "
            "the like have."
        )
    out, _ = call(variables, batch, jax.random.key(0), False)
    if not hasattr(out, "ndim") or out.ndim > 2:
        shape = getattr(out, "shape", type(out).__name__)
        raise Error(f"The model's output is {shape}, not some numbers for each row, (B, K).")
    return out[:, None] if out.ndim == 1 else out
