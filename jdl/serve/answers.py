"""The answers of a server: a program's outputs as rows of JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from jdl.export.table import in_unit
from jdl.inspect.predict import readable_row
from jdl.serve.limits import RequestError
from jdl.serve.models import Columns, ServedModel


def answer_rows(model: ServedModel, outputs: Columns) -> list[dict[str, Any]]:
    """A dict for each row, as `jdl predict` has it."""
    labels, count = tuple(model.manifest["labels"]), len(next(iter(outputs.values())))
    return [readable_row(outputs, row, labels, model.tokenizer) for row in range(count)]


def final_outputs(model: ServedModel, outputs: Columns) -> Columns:
    """The outputs as they are answered: values of a table's target in its own unit.

    Raises `RequestError` 422 where one is NaN or infinite: the label beside it would mean nothing.
    Minus infinity is the score of what a recommender does not offer.
    """
    for name, values in outputs.items():
        if values.dtype.kind == "f" and (wrong := ~(values < np.inf)).any():  # NaN too
            row = wrong.reshape(len(values), -1).any(1).argmax()
            raise RequestError(
                422,
                f"{name} of the answer to row {row} is NaN or infinite: is an input far outside "
                "of the training data, or the model wrong?",
            )
    table = model.manifest.get("table")
    return in_unit(outputs, table) if table else outputs


def _is_finite(values: np.ndarray) -> bool:
    return values.dtype.kind in "biu" or bool(np.isfinite(values).all())


def as_list(values: np.ndarray) -> list[Any]:
    """An array as nested lists; what is not finite is None, as JSON has no such numbers."""
    return values.tolist() if _is_finite(values) else _finite(values.tolist())


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(document: Any) -> bytes:
    """The bytes of a document."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
