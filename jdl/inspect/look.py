"""A first look at a run's data: facts of every split, and rows as the model gets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.look import look, naming_split
from jdl.figures.rows import draw_rows, label_text
from jdl.run import Run
from jdl.train.epochs import has_epochs, in_epochs
from jdl.train.placement import splits
from jdl.types import Tokenizer

ROWS = 4  # that are printed
NUMBERS = 10  # of a row of a column that are printed


def look_at(run: Run, picture: Path) -> tuple[str, Path | None]:
    """The facts of a run's data in text, and the path of the picture of rows if there is one.

    The rows are the first of the first batch of training, augmented.
    """
    steps = run.config.steps
    with naming_split("train"):
        title = f"{run.config.name}: {steps:,} steps{in_epochs(steps, run.train)}"
    if not has_epochs(run.train):
        return f"{title}; its observations come from the environment, not from a dataset.", None
    loaders: dict[str, Any] = {**splits(run)}
    facts = look(run.labels, **loaders)
    batch = {name: np.asarray(column) for name, column in run.train[0].items()}
    mask = batch.pop("mask", np.ones(run.train.batch_size, bool)) > 0
    batch = {name: column[mask] for name, column in batch.items()}
    path = draw_rows(batch, facts.labels, picture)
    shown = [] if path or "edges" in batch else ["", *rows_text(batch, facts.labels, run.tokenizer)]
    return "\n".join([title, "", str(facts), *shown]), path


def rows_text(
    batch: Mapping[str, np.ndarray], labels: Sequence[str], tokenizer: Tokenizer | None
) -> list[str]:
    """The first rows of a batch in text: tokens decoded, classes by name, numbers as they are."""
    lines = ["The first rows of the first batch of training:"]
    for row in range(min(ROWS, len(next(iter(batch.values()))))):
        label = label_text(batch, row, labels)
        lines.append(f"row {batch['id'][row]}" if "id" in batch else f"row {row}")
        for name, column in batch.items():
            if name != "id":
                text = label if name == "y" and label else _value_text(column[row], tokenizer)
                lines.append(f"  {name}: {text}")
    return lines


def _value_text(value: np.ndarray, tokenizer: Tokenizer | None) -> str:
    """One row of a column: its text, or its first numbers."""
    if tokenizer and value.ndim == 1 and value.dtype.kind in "iu":
        return repr(tokenizer.decode(value[(value >= 0) & (value < tokenizer.vocab_size)]))
    numbers = " ".join(f"{number:.4g}" for number in value.ravel()[:NUMBERS].tolist())
    shape = "x".join(map(str, value.shape))
    return numbers + (f" ... ({shape})" if value.size > NUMBERS else "")
