"""Items that a trained recommender has for users: a row each, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def recommended_rows(
    names: Sequence[str], predictions: Mapping[str, np.ndarray], items: Sequence[str]
) -> list[dict[str, Any]] | None:
    """A row for each recommended item: `input`, the user; `rank`, from 1; `item`, its name; score.

    None where the predictions are no recommendations.
    """
    if not {"items", "score"} <= predictions.keys():
        return None
    return [
        {"input": name, "rank": rank, "item": items[item] if items else item, "score": score}
        for name, found, scores in zip(
            names, predictions["items"].tolist(), predictions["score"].tolist(), strict=True
        )
        for rank, (item, score) in enumerate(zip(found, scores, strict=True), 1)
        if score > -np.inf  # of items that the user does not have
    ]
