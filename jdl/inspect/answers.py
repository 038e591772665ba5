"""Answers to questions, as extractive question answering predicts them; in color for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

Row = dict[str, Any]
COLOR = 208  # of the terminal's 256


@runtime_checkable
class ReadsQuestions(Protocol):
    """A dataset that reads questions from files, such as `jdl.data.QuestionAnswers`."""

    def read_questions(self, path: Path) -> list[Any] | None:
        """The questions of a file, with their contexts; None for another kind of file."""

    def answers(self, questions: Sequence[Any], start: np.ndarray, end: np.ndarray) -> list[Any]:
        """The text of each predicted answer, and the character where it begins."""


def answer_rows(
    data: Any, paths: Sequence[Path], predictions: Mapping[str, np.ndarray]
) -> list[Row] | None:
    """A row a question: where it is, the question, its answer, the score, and the context.

    `start` is the character of the context at which the answer begins. Of a question that the
    context does not answer, the answer is empty and the start None. None where the data or the
    files have no questions, or the predictions are no spans.
    """
    if not isinstance(data, ReadsQuestions) or not {"start", "end"} <= predictions.keys():
        return None
    read = [data.read_questions(path) for path in paths]
    if any(part is None for part in read):
        return None
    questions = [question for part in read if part for question in part]
    found = data.answers(questions, predictions["start"], predictions["end"])
    return [
        {
            "input": question.place,
            "question": question.question,
            "answer": text,
            "start": start if text else None,
            "score": score,
            "context": question.context,
        }
        for question, (text, start), score in zip(
            questions, found, predictions["score"].tolist(), strict=True
        )
    ]


def to_color(rows: Sequence[Row]) -> str:
    """Each question in bold and its score, and its context with the answer in color."""
    lines = []
    for row in rows:
        context, start = row["context"], row["start"]
        if start is not None:
            end = start + len(row["answer"])
            shown = f"\x1b[1;38;5;{COLOR}m{context[start:end]}\x1b[0m"
            context = context[:start] + shown + context[end:]
        none = "" if start is not None else ", no answer"
        lines.append(f"\x1b[1m{row['question']}\x1b[0m  {row['score']:.2f}{none}\n{context}\n")
    return "\n".join(lines)
