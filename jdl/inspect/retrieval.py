"""Ranked lists: what the inputs find among the evaluation data; in color for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jdl.data.loader import DatasetLoader
from jdl.figures.retrieval import is_text
from jdl.inspect.restore import TrainedRun
from jdl.metrics.retrieval import nearest
from jdl.sampling import decode_until_end
from jdl.types import Loader

Row = dict[str, Any]
TOP = 3  # documents of a list
COLOR = 208  # of the terminal's 256


def ranked_rows(
    trained: TrainedRun, data: DatasetLoader[Any], names: Sequence[str], inputs: Loader
) -> list[Row]:
    """A row an input: its name, what it finds among the y of `data`, and its embedding `code`.

    `data` are the run's evaluation data. `match_1` is the most similar y, and `similarity_1` the
    cosine; so on to `match_3`. A y that is no text is named by its row. Inputs that are texts are
    shown as the `query`.
    """
    tokenizer = trained.run.tokenizer
    queries = trained.predict_all(inputs, ["x"] if "x" in inputs.spec else [])
    found, similarity = nearest(queries["code"], trained.document_codes, TOP)
    texts = is_text(data.spec["y"], tokenizer)
    tokens = data.dataset.take(found.ravel())["y"] if texts else None
    rows = []
    for n, name in enumerate(names):
        row: Row = {"input": name}
        if tokenizer and "x" in queries and is_text(queries["x"], tokenizer):
            row["query"] = decode_until_end(tokenizer, queries["x"][n])
        for k, place in enumerate(found[n].tolist()):
            shown = f"row {place}"
            if tokenizer and tokens is not None:
                shown = decode_until_end(tokenizer, tokens[n * found.shape[1] + k])
            row |= {f"match_{k + 1}": shown, f"similarity_{k + 1}": float(similarity[n, k])}
        rows.append({**row, "code": queries["code"][n].tolist()})
    return rows


def to_color(rows: Sequence[Row]) -> str:
    """Each query in bold, and below it what it finds, with the similarity in color."""
    lines = []
    for row in rows:
        lines.append(f"\x1b[1m{row.get('query', row['input'])}\x1b[0m")
        for k in range(1, TOP + 1):
            if f"match_{k}" in row:
                similarity = f"\x1b[38;5;{COLOR}m{row[f'similarity_{k}']:.2f}\x1b[0m"
                lines.append(f"  {similarity}  {row[f'match_{k}']}")
        lines.append("")
    return "\n".join(lines)
