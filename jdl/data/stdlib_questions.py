"""Questions about the signatures of functions of Python's standard library."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

from jdl.data import corpus
from jdl.data.order import split_rows, uniforms
from jdl.data.question_answers import QuestionAnswers, question_answers
from jdl.data.question_files import Answer, Question
from jdl.data.tokenizers import SubwordTokenizer, train_bpe
from jdl.types import Error

SPLITS = (0.8, 0.1, 0.1)  # of the files
MAX_LENGTH = 48  # tokens of a question and its signature; 5% have more
MOST = {"default": 3}  # questions of a kind about one function; of the others 1
WORDINGS = {
    "default": (
        "What is the default of {}?",
        "What value does {} have by default?",
        "If {} is left out, what is used?",
    ),
    "after": ("Which parameter comes after {}?", "What follows {}?"),
    "before": ("Which parameter comes before {}?", "What precedes {}?"),
    "whose": ("Which parameter is {} by default?", "What has the default {}?"),
    "type": ("What is the type of {}?", "How is {} annotated?"),
    "returns": ("What does {} return?", "What type of value comes from {}?"),
    "rest": ("What holds the other positional arguments?",),
    "keywords": ("What holds the other keyword arguments?",),
}
WORDINGS["nothing"] = WORDINGS["default"]  # of a parameter that has none


def stdlib_questions(vocab_size: int = 1_024, overlap: bool = True) -> tuple[QuestionAnswers, ...]:
    """Extractive question answering: questions about functions of Python's standard library.

    Returns datasets (train, valid, test) of 80%, 10% and 10% of its files, as `question_answers`
    makes them. A context is the source of a function's signature, from `def` to the colon, read by
    Python's own parser; a signature that stood earlier in any of the three is left out, so that
    none that is tested on was trained on. The contexts and the answers are real, the questions are
    composed: of each kind at most one about a function (three about defaults), in one of up to
    three wordings. Asked are the default of a parameter, which parameter has a default, what comes
    before or after a parameter, types, and what holds the other arguments. Where others have a
    default and the parameter that is asked for has none, there is no answer.

    A program that parses the signature answers all of them: it is an exercise in reading, not in
    knowing. Signatures of up to two parameters without a default are left out, and questions of
    more than 48 tokens with their context. The tokenizer is BPE of `vocab_size` tokens of the
    training data, in which no token has a space; `overlap` is that of `question_answers`.
    """
    parts = [[q for one in part for q in ask(one)] for part in split_signatures()]
    words = [text for question in parts[0] for text in question[:2]]
    tokenizer = train_bpe(words, vocab_size, spaces=False)
    short = [_short(part, tokenizer) for part in parts]
    return question_answers(*short, tokenizer=tokenizer, overlap=overlap, max_length=MAX_LENGTH)


def split_signatures() -> list[list[Signature]]:
    """The signatures of training, validation and test files; none stands in two, or twice."""
    texts, seen = corpus.stdlib(), set[str]()
    parts = []
    for rows in split_rows(len(texts), SPLITS, seed=0, name="documents"):
        part = []
        for signature in (one for n in rows for one in signatures(texts[n])):
            if signature.source not in seen:
                seen.add(signature.source)
                part.append(signature)
        parts.append(part)
    return parts


def _short(questions: Sequence[Question], tokenizer: SubwordTokenizer) -> list[Question]:
    """The questions that have, with their contexts, at most `MAX_LENGTH` tokens."""
    asked = tokenizer.encode_batch([question.question for question in questions])
    contexts = tokenizer.encode_batch([question.context for question in questions])
    room = MAX_LENGTH - 3  # for the tokens around the two texts
    pairs = zip(questions, asked, contexts, strict=True)
    return [question for question, one, other in pairs if len(one) + len(other) <= room]


class Parameter(NamedTuple):
    """A parameter of a function: its name, default and annotation, where each is in the source."""

    name: Answer
    default: Answer | None
    annotation: Answer | None


class Signature(NamedTuple):
    """A function's signature as it stands in the source: from `def` to the colon."""

    source: str
    name: str
    parameters: tuple[Parameter, ...]  # in their order, without those of * and **
    rest: Answer | None  # the name after *
    keywords: Answer | None  # the name after **
    returns: Answer | None


def signatures(source: str) -> Iterator[Signature]:
    """The signatures of the functions and methods of Python source; of none within functions."""
    lines = io.StringIO(source).readlines()
    for node in _functions(ast.parse(source)):
        yield _signature(node, lines)


def ask(signature: Signature) -> list[Question]:
    """The questions about a signature, which depend on it alone; those of each kind are drawn."""
    candidates = list(_candidates(signature))
    seed = crc32(signature.source.encode())
    draws = uniforms(2 * len(candidates), seed, name="questions").reshape(-1, 2)
    questions, asked = [], dict.fromkeys(WORDINGS, 0)
    for n in sorted(range(len(candidates)), key=lambda n: draws[n, 0]):
        kind, subject, answer = candidates[n]
        if asked[kind] < MOST.get(kind, 1):
            asked[kind] += 1
            wordings = WORDINGS[kind]
            text = wordings[int(draws[n, 1] * len(wordings))].format(subject)
            questions.append(Question(signature.source, text, () if answer is None else (answer,)))
    return questions


def _candidates(signature: Signature) -> Iterator[tuple[str, str, Answer | None]]:
    """All questions that can be asked: the kind, what it is about, and the answer."""
    parameters = signature.parameters
    defaults = [one.default.text for one in parameters if one.default]
    if len(parameters) < 3 and not defaults:
        return
    for one in parameters:
        if one.default:
            yield "default", one.name.text, one.default
            if defaults.count(one.default.text) == 1:
                yield "whose", one.default.text, one.name
        elif defaults:
            yield "nothing", one.name.text, None
        if one.annotation:
            yield "type", one.name.text, one.annotation
    for one, other in pairwise(parameters):
        yield "after", one.name.text, other.name
        yield "before", other.name.text, one.name
    if signature.returns:
        yield "returns", signature.name, signature.returns
    if signature.rest:
        yield "rest", "", signature.rest
    if signature.keywords:
        yield "keywords", "", signature.keywords


def _functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in getattr(node, "body", []):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: Sequence[str]) -> Signature:
    first = node.lineno - 1
    start = _column(lines[first], node.col_offset)
    source = _to_colon("".join([lines[first][start:], *lines[first + 1 : node.body[0].end_lineno]]))

    def part(child: ast.expr | ast.arg | None, length: int | None = None) -> Answer | None:
        """A part of the tree as it stands in the source; `length` is that of a name."""
        if child is None:
            return None
        begin, end = (
            sum(map(len, lines[first : line - 1])) + _column(lines[line - 1], column) - start
            for line, column in (
                (child.lineno, child.col_offset),
                (child.end_lineno or 0, child.end_col_offset or 0),
            )
        )
        end = end if length is None else begin + length
        return Answer(source[begin:end], begin)

    def named(argument: ast.arg | None) -> Answer | None:
        return part(argument, len(argument.arg)) if argument else None

    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(plain) - len(given.defaults)), *given.defaults, *given.kw_defaults]
    parameters = []
    for argument, default in zip([*plain, *given.kwonlyargs], defaults, strict=True):
        name = named(argument)
        assert name is not None
        parameters.append(Parameter(name, part(default), part(argument.annotation)))
    rest, keywords, returns = named(given.vararg), named(given.kwarg), part(node.returns)
    return Signature(source, node.name, tuple(parameters), rest, keywords, returns)


def _to_colon(source: str) -> str:
    """A function's source up to the colon before its body."""
    depth = 0
    for part in tokenize.generate_tokens(io.StringIO(source).readline):
        if part.type == tokenize.OP:
            depth += (part.string in "([{") - (part.string in ")]}")
            if part.string == ":" and not depth:
                lines = io.StringIO(source).readlines()
                return "".join(lines[: part.end[0] - 1]) + lines[part.end[0] - 1][: part.end[1]]
    raise Error(f"A function has no colon: {source[:40]!r}.")


def _column(line: str, column: int) -> int:
    """A column in characters; the syntax tree counts bytes."""
    return column if line.isascii() else len(line.encode()[:column].decode())
