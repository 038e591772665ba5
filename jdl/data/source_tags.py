"""Named entity recognition in source code: the roles of names in Python's standard library."""

from __future__ import annotations

import ast
import io
import token
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from jdl.data import corpus
from jdl.data.order import split_rows
from jdl.data.tagged_text import TaggedText, Words, tagged_text
from jdl.types import Error

SPLITS = (0.24, 0.03, 0.03)  # of the files; the rest would take a minute to read
MAX_LENGTH = 24  # words; 2% of the lines have more
LAYOUT = (token.COMMENT, token.NL, token.INDENT, token.DEDENT, token.ENDMARKER)
ANNOUNCING = ("def", "class", "import", "from", "as", "lambda", "async", "@")
PUNCTUATION = ("(", ")", "[", "]", "{", "}", ".", ",", ":", ";")
Place = tuple[int, int]  # the line from 1 on, and the column from 0 on, in characters


@dataclass(frozen=True, eq=False)
class SourceTags(TaggedText):
    """A dataset of tagged lines of source code; see `stdlib_tags`."""

    hidden: tuple[str, ...] = ANNOUNCING  # words that are left out of each line

    def read_words(self, path: Path) -> tuple[list[str], list[Words]] | None:
        """The lines of a .py file as the dataset has them, or of a .txt file, and where they are.

        Raises `Error` where a file has no tokens of Python.
        """
        if path.suffix != ".py":
            return super().read_words(path)
        try:
            tokens = source_tokens(path.read_text("utf-8"))
        except (OSError, ValueError, tokenize.TokenError, SyntaxError) as error:
            raise Error(f"{path} cannot be read as Python: {error}.") from error
        lines = list(_lines([part for part in tokens if part.word not in self.hidden]))
        if not lines:
            raise Error(f"{path} has no line of code.")
        places = [f"{path}:{line[0].start[0]}" for line in lines]
        return self.fit(places, [[part.word for part in line] for line in lines])


def stdlib_tags(punctuation: bool = True) -> tuple[SourceTags, SourceTags, SourceTags]:
    """Named entity recognition in source code: lines of Python's standard library, tagged.

    Returns datasets (train, valid, test) of 24%, 3% and 3% of its files: no file is in two. A row
    is a logical line, as `tagged_text` has it; a line that stood earlier in any of the three is
    left out, so that no line that is tested on was trained on. The BIO tags are the roles that
    names play, by Python's own parser: attribute, base, call, class, decorator, exception,
    function, import, keyword, module, parameter, variable. Of `shutil.copy(src, dst=name)` the span
    `shutil.copy` is a call of three words, and `dst` a keyword; the other words are O.

    What makes it hard: most names play many roles, and one in eight words is not in the vocabulary.
    The words that would announce a role are left out: def, class, import, from, as, lambda, async
    and @. What `f(a, b)` is depends then on the colon at its end, if there is one, and on the words
    at its start. Without `punctuation` brackets, dots, commas, colons and semicolons are left out
    too, so that not even the ends of spans are marked. Strings are shown as "" and numbers as 0;
    comments are left out.
    """
    hidden = ANNOUNCING if punctuation else (*ANNOUNCING, *PUNCTUATION)
    texts, seen = corpus.stdlib(), set[tuple[str, ...]]()
    parts = []
    for rows in split_rows(len(texts), SPLITS, seed=0, name="documents"):
        part = []
        for words, tags in (pair for n in rows for pair in source_sentences(texts[n], hidden)):
            if len(words) > 1 and tuple(words) not in seen:
                part.append((words, tags))
                seen.add(tuple(words))
        parts.append(part)
    train, valid, test = (
        SourceTags(data.source, data.ids, vocabulary=data.vocabulary, hidden=hidden)
        for data in tagged_text(*parts, max_length=MAX_LENGTH)
    )
    return train, valid, test


class Token(NamedTuple):
    """A token of source code: how it is shown, where it begins and ends, its logical line."""

    word: str
    start: Place
    end: Place
    line: int


def source_tokens(source: str) -> list[Token]:
    """The tokens of Python source, without comments and layout; a string is "", a number 0.

    An f-string is one string, as in Python 3.11 and before.
    """
    found, line, depth, start = [], 0, 0, (0, 0)
    for part in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = token.tok_name[part.type]
        if kind == "FSTRING_START":
            start, depth = (start if depth else part.start), depth + 1
        elif kind == "FSTRING_END":
            depth -= 1
            if not depth:
                found.append(Token('""', start, part.end, line))
        elif kind == "NEWLINE":
            line += 1
        elif not depth and part.type not in LAYOUT:
            word = {"STRING": '""', "NUMBER": "0"}.get(kind, part.string)
            found.append(Token(word, part.start, part.end, line))
    return found


def source_sentences(
    source: str, hidden: Sequence[str] = ANNOUNCING
) -> list[tuple[list[str], list[str]]]:
    """The logical lines of Python source: words, and the BIO tags of the roles that names play.

    The words in `hidden` are left out.
    """
    tokens = source_tokens(source)
    roles = _Roles(source, tokens).spans()
    shown = [n for n, part in enumerate(tokens) if part.word not in hidden]
    sentences = []
    for _, line in groupby(shown, key=lambda n: tokens[n].line):
        words, tags, before = [], [], None
        for n in line:
            span = roles[n]
            words.append(tokens[n].word)
            tags.append("O" if span is None else f"{'I' if span == before else 'B'}-{span.role}")
            before = span
        sentences.append((words, tags))
    return sentences


def _lines(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """The tokens of each logical line."""
    return (list(line) for _, line in groupby(tokens, key=lambda part: part.line))


class _Span(NamedTuple):
    role: str
    first: int  # its first token


class _Roles:
    """The roles of the tokens of a source, by its syntax tree."""

    def __init__(self, source: str, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.tree = ast.parse(source)
        self.lines = io.StringIO(source).readlines()
        self.starts = {part.start: n for n, part in enumerate(tokens)}
        self.ends = {part.end: n for n, part in enumerate(tokens)}
        self.of_token: list[_Span | None] = [None] * len(tokens)

    def spans(self) -> list[_Span | None]:
        """The span that each token is in; None where it has no role."""
        for node in _walk(self.tree):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    self._definition(node)
                case ast.Import() | ast.ImportFrom():
                    self._import(node)
                case ast.arg():
                    self._claim("parameter", self._start(node))
                case ast.keyword(arg=str()):
                    self._claim("keyword", self._start(node))
                case ast.ExceptHandler(type=ast.expr() as caught):
                    for kind in getattr(caught, "elts", [caught]):
                        self._name("exception", kind)
                case ast.Call():
                    self._name("call", node.func)
                case ast.Attribute():
                    self._claim("attribute", self._end(node))
                case ast.Name(ctx=ast.Store()):
                    self._claim("variable", self._start(node))
        return self.of_token

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        name = self._start(node) + 1 + isinstance(node, ast.AsyncFunctionDef)
        self._claim("class" if isinstance(node, ast.ClassDef) else "function", name)
        for decorator in node.decorator_list:
            self._name("decorator", getattr(decorator, "func", decorator))
        for base in getattr(node, "bases", []):
            self._name("base", base)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        names = [self._start(alias) for alias in node.names if alias.name != "*"]
        if isinstance(node, ast.Import):
            for first in names:
                self._claim("module", first, self._end_of_dotted(first))
            return
        for first in names:
            self._claim("import", first)
        if node.module:
            first = self._start(node) + 1
            while self.tokens[first].word in (".", "..."):
                first += 1
            self._claim("module", first, self._end_of_dotted(first))

    def _name(self, role: str, node: ast.expr) -> None:
        """Claims a name, dotted or not; or, of what has another expression before it, the end."""
        if _is_dotted(node):
            self._claim(role, self._start(node), self._end(node))
        elif isinstance(node, ast.Attribute):
            self._claim(role, self._end(node))

    def _claim(self, role: str, first: int, last: int | None = None) -> None:
        """Gives the tokens a role, unless one of them has one: outer nodes come first."""
        last = first if last is None else last
        if not any(self.of_token[first : last + 1]):
            self.of_token[first : last + 1] = [_Span(role, first)] * (last + 1 - first)

    def _end_of_dotted(self, first: int) -> int:
        while first + 2 < len(self.tokens) and self.tokens[first + 1].word == ".":
            first += 2
        return first

    def _start(self, node: ast.stmt | ast.expr | ast.arg | ast.keyword | ast.alias) -> int:
        return self.starts[self._place(node.lineno, node.col_offset)]

    def _end(self, node: ast.expr) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.ends[self._place(node.end_lineno, node.end_col_offset)]

    def _place(self, line: int, column: int) -> Place:
        """A place as tokenize counts it, in characters; the syntax tree counts bytes."""
        text = self.lines[line - 1]
        return line, column if text.isascii() else len(text.encode()[:column].decode())


def _is_dotted(node: ast.AST) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, outer ones first, but none within f-strings, which are one token."""
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        if not isinstance(node, ast.JoinedStr):
            yield node
            nodes.extend(ast.iter_child_nodes(node))
