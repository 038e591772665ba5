"""The answers of a server: a program's outputs as rows of JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from jdl.sampling import decode_until_end
from jdl.serve.models import Columns, ServedModel


def answer_rows(model: ServedModel, outputs: Columns) -> list[dict[str, Any]]:
    """A dict for each row, with the names of labels, and the text of tokens."""
    columns = {name: as_list(values) for name, values in outputs.items()}
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    labels = model.manifest["labels"]
    for n, row in enumerate(rows):
        if labels and "label" in row:
            row["label"] = _named(row["label"], row.get("probability"), labels)
        if model.tokenizer and "tokens" in row:
            row["text"] = decode_until_end(model.tokenizer, outputs["tokens"][n])
    return rows


def _named(label: Any, probability: Any, labels: list[str]) -> Any:
    """The name of a row's class; of several labels a row, the names of those that it has."""
    if isinstance(label, int) and 0 <= label < len(labels):
        return labels[label]
    each = isinstance(label, list) and isinstance(probability, list) and len(label) == len(labels)
    if each and all(isinstance(p, float) for p in probability):
        return [name for name, has in zip(labels, label, strict=True) if has]
    return label


def as_list(values: np.ndarray) -> list[Any]:
    """An array as nested lists; what is not finite is None, as JSON has no such numbers."""
    if values.dtype.kind not in "biuf":  # bfloat16
        values = values.astype(np.float32)
    found = values.tolist()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        found = _finite(found)
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if math.isfinite(value) else None


def to_json(document: Any) -> bytes:
    """The bytes of a document."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
