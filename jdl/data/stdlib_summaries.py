"""Functions of Python's standard library and the first lines of their docstrings, to summarize."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdl.data import corpus
from jdl.data.dataset import Dataset, arrays
from jdl.data.order import split_rows
from jdl.data.padding import padded
from jdl.data.tokenizers import ByteTokenizer, train_bpe
from jdl.types import Error, Tokenizer

SPLITS = (0.8, 0.1, 0.1)  # of the files
LONGEST = 64  # tokens of a function; the rest is cut off
LONGEST_SUMMARY = 24  # tokens, the end included; a tenth has more, and is left out
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[^\W\d_a-zA-Z]+")


class Function(NamedTuple):
    """A function of Python source: where it is, its source without docstring, and the summary."""

    line: int
    source: str
    summary: str  # the first line of the docstring; empty without one


@dataclass(frozen=True, eq=False, repr=False)
class FunctionSummaries(Dataset):
    """A dataset of functions and their summaries; see `stdlib_summaries`."""

    tokenizer: Tokenizer = field(default_factory=ByteTokenizer)

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """Where each function of a new .py file is, and its columns; None for another file.

        Raises `Error` where the file is not Python, or has no function.
        """
        if path.suffix != ".py":
            return None
        try:
            found = list(functions(path.read_text("utf-8")))
        except (OSError, ValueError, SyntaxError) as error:
            raise Error(f"{path} cannot be read as Python: {error}.") from error
        if not found:
            raise Error(f"{path} defines no function that could be summarized.")
        steps, end = self.source.take(np.zeros(1, np.int32))["x"].shape[1], self.tokenizer.eos_id
        encoded = [[*self.tokenizer.encode(words(one.source))[: steps - 1], end] for one in found]
        x, length = padded(encoded, steps, fill=end)
        return [f"{path}:{one.line}" for one in found], {"x": x, "length": length}


def stdlib_summaries(vocab_size: int = 2_000) -> tuple[FunctionSummaries, ...]:
    """Summarization of source code: functions of Python's standard library and their docstrings.

    Returns datasets (train, valid, test) of 80%, 10% and 10% of its files. Columns are those of
    `text_pairs`: x (S,) and `length`, the words of a function's source without its docstring, cut
    off at 64 tokens; y (T,) and `y_length`, the first line of the docstring, of 24 tokens at most.
    The words are those of names, keywords and strings: `sort_keys` is two, and signs are left out.
    A function that stood earlier in any of the three is left out, so that none that is tested on
    was trained on. The tokenizer is BPE of `vocab_size` tokens of the training data.
    """
    parts = split_functions()
    pairs = [[(words(one.source), one.summary) for one in part] for part in parts]
    tokenizer = train_bpe([text for pair in pairs[0] for text in pair], vocab_size)
    return tuple(_dataset(part, tokenizer) for part in pairs)


def _dataset(pairs: list[tuple[str, str]], tokenizer: Tokenizer) -> FunctionSummaries:
    plain = corpus.text_pairs(pairs, tokenizer, LONGEST, truncate=True)
    short = plain.select(plain.columns["y_length"] <= LONGEST_SUMMARY)
    source = arrays((), **{**short.columns, "y": short.columns["y"][:, :LONGEST_SUMMARY]}).source
    ids = np.arange(len(short), dtype=np.int32)
    return FunctionSummaries(source, ids, (), plain.device_bytes, tokenizer)


def split_functions() -> list[list[Function]]:
    """The functions with a docstring of training, validation and test files; none stands twice."""
    texts, seen = corpus.stdlib(), set[str]()
    parts = []
    for rows in split_rows(len(texts), SPLITS, seed=0, name="documents"):
        part = []
        for function in (one for n in rows for one in functions(texts[n])):
            if function.summary and function.source not in seen:
                seen.add(function.source)
                part.append(function)
        parts.append(part)
    return parts


def functions(source: str) -> Iterator[Function]:
    """The functions and methods of Python source, without decorators, in their order.

    Those whose body is a docstring alone are left out.
    """
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, FUNCTIONS)]
    for node in sorted(nodes, key=lambda n: n.lineno):
        lines = (ast.get_docstring(node) or "").strip().splitlines()
        body: Sequence[ast.stmt] = node.body[1:] if lines else node.body
        if body:
            node.body, node.decorator_list = list(body), []
            yield Function(node.lineno, ast.unparse(node), lines[0] if lines else "")


def words(source: str) -> str:
    """The words of Python source, with spaces between: those of names, keywords and strings.

    A word is cut where a capital letter, a digit, or a letter beyond ASCII begins or ends.
    """
    return " ".join(WORD.findall(source))
