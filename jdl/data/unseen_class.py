"""Novelty detection from a dataset of classes: one of them is never in the training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.types import Error

LABELS = ("normal", "anomaly")


def unseen_class(
    unseen: int, train: Dataset, test: Dataset, valid: float = 0.1
) -> tuple[Dataset, Dataset, Dataset]:
    """Novelty detection with one class left out: (train, valid, test), y is 1 for `unseen`.

    The training rows are of the other classes only. The validation rows are a share `valid` of
    the unseen class in `train`, and the same share of all its other rows together. The test rows
    are all of `test`. Choose settings with other classes unseen than those whose test rows you
    report: settings that were chosen by a class's rows have seen it. Other columns stay as they
    are; all are read into memory. Transforms stay, too: one that reads y gets 0 or 1.
    """
    marked, marked_test = _marked(unseen, train, "train"), _marked(unseen, test, "test")
    rest, held_out = marked.split(1 - valid, valid, stratify="y")
    return rest.select(rest.column("y") == 0), held_out, marked_test


def _marked(unseen: int, data: Dataset, split: str) -> Dataset:
    """The dataset with y of 1 for the unseen class and 0 for the others."""
    columns = data.columns
    y = columns.get("y")
    if y is None or y.ndim != 1 or y.dtype.kind not in "iu":
        raise Error(f"unseen_class needs a column y of one class for each row of {split}.")
    if not 0 < (y == unseen).sum() < len(y):
        raise Error(
            f"Class {unseen} is none or all of {split}, which has the classes "
            f"{', '.join(map(str, np.unique(y)[:20].tolist()))}: leave out one of several."
        )
    others = {name: column for name, column in columns.items() if name not in ("id", "y")}
    marked = arrays(LABELS, **others, y=y == unseen).map(*data.transforms)
    return replace(marked, device_bytes=data.device_bytes)
