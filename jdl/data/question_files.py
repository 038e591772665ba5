"""Questions about texts, with their answers: of SQuAD's JSON, of tables, or of columns."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from jdl.data.bad_rows import OnBad, check_on_bad
from jdl.data.text_files import is_utf8, read_rows
from jdl.types import Error

SHOWN = 3  # questions that were left out which a warning names


class Answer(NamedTuple):
    """An answer: a part of the context, which begins at its character `start`."""

    text: str
    start: int


class Question(NamedTuple):
    """A question about a text, the context. Without `answers`, the context does not answer it."""

    context: str
    question: str
    answers: tuple[Answer, ...] = ()
    place: str = ""  # where it was read, such as squad.json: question 56be4db0

    def problem(self) -> str | None:
        """What is wrong with it, if anything."""
        for name, text in (("context", self.context), ("question", self.question)):
            if not isinstance(text, str) or not text.strip():
                return f"has no text as its {name}, but {text!r:.40}"
            if not is_utf8(text):
                return f"is not UTF-8 in its {name}: {_surrogate(text)}"
        for text, start in self.answers:
            if not isinstance(text, str) or not text.strip():
                return f"has no text as its answer, but {text!r:.40}"
            if isinstance(start, bool) or not isinstance(start, Integral):
                return f"has no whole number as the start of its answer, but {start!r:.40}"
            if start < 0 or self.context[start : start + len(text)] != text:
                found = self.context.find(text)
                at = f"but at {found}" if found >= 0 else "nor anywhere else"
                return (
                    f"has the answer {text!r:.60}, which is not at character {start} of its "
                    f"context, {at}"
                )
        return None


def check_questions(
    name: str, questions: Sequence[Question], on_bad: OnBad
) -> tuple[list[Question], list[str]]:
    """The good questions, and where the bad ones are and why.

    Raises `Error` for the first bad one, unless `on_bad` is "skip".
    """
    check_on_bad(on_bad)
    good: list[Question] = []
    skipped: list[str] = []
    for n, question in enumerate(questions):
        place = question.place or f"Question {n}"
        if problem := question.problem():
            refuse_or_skip(f"{place} {problem}", on_bad, skipped)
        else:
            good.append(question._replace(place=place))
    if not good:
        raise Error(f"{name}: there are no questions{' but bad ones' if skipped else ''}.")
    return good, skipped


def refuse_or_skip(problem: str, on_bad: OnBad, skipped: list[str]) -> None:
    """Raises `Error` with the problem, or notes it where bad rows are left out."""
    if on_bad == "raise":
        raise Error(f'{problem}. Correct it, or leave such questions out: on_bad="skip".')
    skipped.append(problem)


def warn_skipped(name: str, skipped: Sequence[str]) -> None:
    """Warns of the questions that are left out."""
    if skipped:
        more = f"; and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
        warnings.warn(
            f"{name}: {len(skipped)} bad questions are left out: "
            f"{'; '.join(skipped[:SHOWN])}{more}.",
            stacklevel=3,
        )


def read_questions(
    source: Any, answers: bool = True, on_bad: OnBad = "raise"
) -> tuple[list[Question], tuple[str, ...]]:
    """The questions of a file or of columns, and its rows that have none; see `read_rows`.

    A .json file has the form of SQuAD; a .csv, .tsv or .jsonl file, or columns by name, have
    context, question, answer and start, the character at which the answer begins. Without
    `answers` the last two are not read.
    """
    if isinstance(source, str | Path) and Path(source).suffix.lower() == ".json":
        return list(_squad(Path(source), answers)), ()
    names = ("context", "question", *(("answer",) if answers else ()))
    rows = read_rows(source, names, "start" if answers else None, on_bad)
    questions = []
    for texts, start, place in zip(rows.texts, rows.labels, rows.places, strict=True):
        found = tuple(Answer(text, _number(start)) for text in texts[2:])
        questions.append(Question(texts[0], texts[1], found, place))
    return questions, rows.skipped


def _surrogate(text: str) -> str:
    """Where the first lone surrogate of a text is."""
    place = next(n for n, letter in enumerate(text) if not is_utf8(letter))
    return f"character {place} is {text[place]!r}, half of a pair"


def _number(start: Any) -> Any:
    """A whole number that is written as text; anything else as it is."""
    return int(start) if isinstance(start, str) and start.strip().isdecimal() else start


def _squad(path: Path, answers: bool) -> Iterator[Question]:
    """The questions of a file of SQuAD: data, paragraphs with a context, qas."""
    try:
        articles = json.loads(path.read_text("utf-8"))["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Error(
            f'{path} is not JSON of the form of SQuAD, {{"data": [{{"paragraphs": [{{"context": '
            f'..., "qas": [...]}}]}}]}}: {error!r}.'
        ) from error
    place = str(path)
    try:
        for n, article in enumerate(articles):
            place = f"{path}: article {n}"
            for paragraph in article["paragraphs"]:
                for entry in paragraph["qas"]:
                    place = f"{path}: question {entry.get('id', repr(entry['question']))}"
                    given = entry["answers"] if answers else []
                    found = tuple(Answer(one["text"], one["answer_start"]) for one in given)
                    yield Question(paragraph["context"], entry["question"], found, place)
    except (KeyError, TypeError, AttributeError) as error:
        raise Error(f"{place} is not of the form of SQuAD: {error!r}.") from error
