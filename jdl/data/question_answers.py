"""Extractive question answering: questions, and the part of a text that answers each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdl.data.bad_rows import OnBad
from jdl.data.dataset import Dataset, arrays
from jdl.data.padding import padded, padded_length
from jdl.data.question_files import (
    Answer,
    Question,
    check_questions,
    read_questions,
    refuse_or_skip,
    warn_skipped,
)
from jdl.data.tokenizers import ByteTokenizer, SubwordTokenizer, load_tokenizer
from jdl.types import Error, Tokenizer

SUFFIXES = (".json", ".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True, eq=False, repr=False)
class QuestionAnswers(Dataset):
    """A dataset of questions about texts; see `question_answers`."""

    tokenizer: Tokenizer = field(default_factory=ByteTokenizer)
    questions: tuple[Question, ...] = ()  # of the rows of the source
    skipped: tuple[str, ...] = ()  # bad questions of the source: where each is, and why
    overlap: bool = False  # whether `token_type` shows which tokens are in both texts

    @property
    def max_length(self) -> int:
        """The tokens of a row, padding included."""
        return self.source.take(np.zeros(1, np.int32))["x"].shape[1]

    def encode(self, questions: Sequence[Question]) -> dict[str, np.ndarray]:
        """Other questions as the columns x, length and token_type, of the same shape.

        Warns of contexts that are truncated.
        """
        encoded = _encode(self.tokenizer, questions, self.max_length)
        if truncated := sum(one.truncated for one in encoded):
            warnings.warn(
                f"{truncated} of {len(encoded)} contexts have no room in {self.max_length} tokens "
                "and are truncated: an answer after that cannot be found.",
                stacklevel=2,
            )
        return _columns(encoded, self.max_length, self.overlap)

    def read_questions(self, path: Path) -> list[Question] | None:
        """The questions of a new file, whose answers are not read; None for another kind of file.

        A .json file of the form of SQuAD, or a .csv, .tsv or .jsonl file with the columns context
        and question.
        """
        if path.suffix.lower() not in SUFFIXES:
            return None
        questions, _ = read_questions(path, answers=False)
        return check_questions(str(path), questions, "raise")[0]

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """Where each question of a new file is, and its columns; None for another kind of file."""
        questions = self.read_questions(path)
        if questions is None:
            return None
        return [question.place for question in questions], self.encode(questions)

    def answers(
        self, questions: Sequence[Question], start: np.ndarray, end: np.ndarray
    ) -> list[Answer]:
        """The parts of the contexts that the tokens from `start` (N,) to `end` (N,) are.

        Where the question has no answer in its context, at token 0, the text is empty.
        """
        encoded = _encode(self.tokenizer, questions, self.max_length)
        found = []
        for one, question, first, last in zip(encoded, questions, start, end, strict=True):
            if first < one.first:
                found.append(Answer("", 0))
                continue
            begin = int(one.spans[first - one.first, 0])
            found.append(_stripped(question.context[begin : one.spans[last - one.first, 1]], begin))
        return found


def question_answers(
    train: Any,
    *others: Any,
    tokenizer: Tokenizer | str | Path | None = None,
    overlap: bool = False,
    max_length: int = 384,
    on_bad: OnBad = "raise",
) -> tuple[QuestionAnswers, ...]:
    """Extractive question answering: questions about texts, whose answers are parts of them.

    `train` and `others`, such as validation and test, are .json files of the form of SQuAD
    (Rajpurkar et al., 2016; also of SQuAD 2.0, with questions that have no answer), .csv, .tsv or
    .jsonl files or columns by name with context, question, answer and start (the character of the
    context at which the answer begins), or lists of `Question`. Each gives a dataset. Columns: x
    (T,), the tokens of the question and of its context with the tokenizer's special tokens around
    them, padded with 0; `length`, their number; `token_type` (T,), 1 for tokens of the context and
    0 for others; y (2,), the first and the last token of the answer, or 0 and 0 without one. Of
    several answers y is the first. The tokenizer is the file or object given, or bytes.

    With `overlap` the type is 2 for those tokens of the context that are also in the question
    (the exact match feature of DrQA; Chen et al., 2017). A model that is trained from scratch then
    learns sooner, as it need not find out first which tokens are equal.

    A row has at most `max_length` tokens: a longer context is truncated. Raises `Error` with the
    place of the first question whose answer is not at its start, or is cut off by `max_length`,
    or that leaves no room for its context; with `on_bad="skip"` these are left out, counted, and
    listed in `skipped`.
    """
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(tokenizer)
    chosen, parts = tokenizer or ByteTokenizer(), []
    for source in (train, *others):
        name = str(source) if isinstance(source, str | Path) else "The questions"
        read = (source, ()) if _is_list(source) else read_questions(source, on_bad=on_bad)
        questions, skipped = check_questions(name, read[0], on_bad)
        rows = _answered(chosen, questions, max_length, on_bad, skipped)
        warn_skipped(name, skipped)
        if not rows:
            raise Error(f"{name}: no question has its answer within {max_length} tokens.")
        parts.append((rows, (*read[1], *skipped)))
    longest = max(len(row.encoded.tokens) for rows, _ in parts for row in rows)
    length = padded_length(longest, max_length)
    datasets = []
    for rows, left_out in parts:
        y = np.asarray([row.y for row in rows], np.int32)
        columns = _columns([row.encoded for row in rows], length, overlap)
        plain = arrays((), **columns, y=y)
        asked = tuple(row.question for row in rows)
        options = (chosen, asked, left_out, overlap)
        datasets.append(QuestionAnswers(plain.source, plain.ids, (), plain.device_bytes, *options))
    return tuple(datasets)


class _Encoded(NamedTuple):
    tokens: np.ndarray  # of the question and of its context, with special tokens
    first: int  # the place among them of the context's first token
    spans: np.ndarray  # (n, 2): the characters of each token of the context
    truncated: bool


class _Row(NamedTuple):
    question: Question
    encoded: _Encoded
    y: tuple[int, int]


def _is_list(source: Any) -> bool:
    return isinstance(source, Sequence) and all(isinstance(one, Question) for one in source)


def _answered(
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    max_length: int,
    on_bad: OnBad,
    skipped: list[str],
) -> list[_Row]:
    """The rows of the questions whose answers are not cut off; `skipped` gets the others."""
    rows = []
    for question, one in zip(questions, _join(tokenizer, questions, max_length), strict=True):
        if isinstance(one, str):
            refuse_or_skip(one, on_bad, skipped)
            continue
        span = _token_span(one, question.answers[0]) if question.answers else (0, 0)
        if span:
            rows.append(_Row(question, one, span))
        else:
            answer = question.answers[0].text
            refuse_or_skip(
                f"{question.place} has the answer {answer!r:.60}, which is cut off by max_length, "
                f"{max_length} tokens",
                on_bad,
                skipped,
            )
    return rows


def _encode(tokenizer: Tokenizer, questions: Sequence[Question], max_length: int) -> list[_Encoded]:
    """The tokens of questions and contexts; raises `Error` for a question that is too long."""
    encoded = []
    for one in _join(tokenizer, questions, max_length):
        if isinstance(one, str):
            raise Error(f"{one}: shorten it.")
        encoded.append(one)
    return encoded


def _join(
    tokenizer: Tokenizer, questions: Sequence[Question], max_length: int
) -> Iterator[_Encoded | str]:
    """The tokens of each question and its context, which are truncated to `max_length` together.

    Of a question that leaves no room for its context: what is wrong with it.
    """
    if not hasattr(tokenizer, "encode_spans"):
        raise Error(
            "Extractive question answering needs to know where each token is in the text: a "
            f"tokenizer with a method encode_spans, which {type(tokenizer).__name__} has not."
        )
    before, between, after = _special_tokens(tokenizer)
    asked = tokenizer.encode_spans([question.question for question in questions])
    contexts = tokenizer.encode_spans([question.context for question in questions])
    for question, (ids, _), (tokens, spans) in zip(questions, asked, contexts, strict=True):
        first = len(before) + len(ids) + len(between)
        room = max_length - first - len(after)
        if room < 1:
            yield (
                f"{question.place} has {len(ids)} tokens, which leave no room for its context in "
                f"max_length, {max_length}"
            )
            continue
        row = np.concatenate([before, ids, between, tokens[:room], after]).astype(np.int32)
        yield _Encoded(row, first, spans[:room], len(tokens) > room)


def _special_tokens(tokenizer: Tokenizer) -> list[list[int]]:
    """The special tokens before a question, between it and its context, and after that.

    A row always begins with one: it is what an answer points to that is not in the context.
    """
    end = [tokenizer.eos_id]
    if not isinstance(tokenizer, SubwordTokenizer):
        return [end, end, end]
    before, between, after = tokenizer.special_tokens(2)
    return [before or end, between, after]


def _token_span(encoded: _Encoded, answer: Answer) -> tuple[int, int] | None:
    """The first and the last token of an answer; None where it is cut off."""
    text, start = _stripped(*answer)
    starts, ends = encoded.spans.T
    covering = np.flatnonzero((ends > start) & (starts < start + len(text)))
    if not len(covering) or (encoded.truncated and ends[-1] < start + len(text)):
        return None
    return encoded.first + int(covering[0]), encoded.first + int(covering[-1])


def _stripped(text: str, start: int) -> Answer:
    """The answer without the spaces around it."""
    return Answer(text.strip(), start + len(text) - len(text.lstrip()))


def _columns(rows: Sequence[_Encoded], length: int, overlap: bool) -> dict[str, np.ndarray]:
    """Tokens as x (N, length), padded with 0, their numbers, and which are of the context."""
    x, lengths = padded([row.tokens for row in rows], length)
    first = np.asarray([row.first for row in rows], np.int32)
    last = first + np.asarray([len(row.spans) for row in rows], np.int32)
    steps = np.arange(length)[None]
    token_type = ((steps >= first[:, None]) & (steps < last[:, None])).astype(np.int32)
    for n in range(len(rows) if overlap else 0):
        context = slice(first[n], last[n])
        token_type[n, context] += np.isin(x[n, context], x[n, : first[n]])
    return {"x": x, "length": lengths, "token_type": token_type}
