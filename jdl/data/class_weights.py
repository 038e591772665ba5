"""Class weights against class imbalance, from the labels of a dataset."""

from __future__ import annotations

import numpy as np

from jdl.data.dataset import Dataset
from jdl.types import Error


def class_weights(dataset: Dataset, column: str = "y") -> tuple[float, ...]:
    """The "balanced" class weights of scikit-learn, n / (K * count), for `classify`.

    `classify(model, class_weights=class_weights(train))`: every class then has the same weight in
    the loss, however rare it is. The labels are the whole numbers of a column, from 0 to K - 1; -1
    is unknown and not counted. Take them from the training part; the dataset is read once. A class
    that does not occur has no such weight, and is refused.
    """
    labels = dataset.column(column)
    names = dataset.labels if column == "y" else ()  # they are those of y
    several = labels.ndim == 2 and labels.shape[1] > 1 and np.isin(labels, (-1, 0, 1)).all()
    if several and len(names) in (0, labels.shape[1]):
        two = (
            " If it is instead one label of two classes for each time step, name the classes: "
            "jdl.data.arrays(labels=('no', 'yes'), ...)."
        )
        raise Error(
            f"Column {column} {labels.shape} has several labels of 0 and 1 a row, and no classes: "
            "jdl.objectives.multi_label takes positive_weights, (1 - rate) / rate with "
            f"rate = (dataset.column({column!r}) == 1).mean(0).{two * (not names)}"
        )
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < -1:
        raise Error(
            f"class_weights needs whole-number labels in column {column}, from 0 on, or -1 for "
            f"unknown, but it is {labels.dtype} from {labels.min(initial=0)}."
        )
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    if not counts.size or not counts.all():
        missing = ", ".join(map(str, np.flatnonzero(counts == 0))) or "0"
        raise Error(
            f"No row of column {column} has the class {missing}: leave out classes that do not "
            "occur, or give the weights by hand."
        )
    return tuple((counts.sum() / (len(counts) * counts)).tolist())
