"""Named entity recognition in source code: the roles of names in Python's standard library."""

from __future__ import annotations

import ast
import io
import token
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

Place = tuple[int, int]  # the line from 1 on, and the column from 0 on, in characters
Sentence = tuple[list[str], list[str]]  # words, and a tag of each
ROLES = (
    "attribute",
    "base",
    "call",
    "class",
    "decorator",
    "exception",
    "function",
    "import",
    "keyword",
    "module",
    "parameter",
    "variable",
)
LAYOUT = {token.COMMENT, token.NL, token.INDENT, token.DEDENT, token.ENCODING, token.ENDMARKER}
HIDDEN = frozenset()


@dataclass(frozen=True)
class Token:
    """A token of source code: how it is shown, where it begins and ends, and its logical line."""

    word: str
    start: Place
    end: Place
    line: int


def source_sentences(source: str, hidden=HIDDEN) -> list[Sentence]:
    tokens = list(_tokens(source))
    tags = _tags(source, tokens)
    sentences = []
    last = None
    for n, (t, tag) in enumerate(zip(tokens, tags)):
        if t.line != last:
            sentences.append(([], []))
            last = t.line
        if t.word in hidden:
            continue
        sentences[-1][0].append(t.word)
        sentences[-1][1].append(tag)
    out = []
    for words, tags in sentences:
        fixed, before = [], None
        for tag in tags:
            if tag is None:
                fixed.append("O")
            else:
                fixed.append(("I-" if tag is before else "B-") + tag[0])
            before = tag
        if len(words) > 1:
            out.append((words, fixed))
    return out


def _tokens(source: str) -> Iterator[Token]:
    """The tokens of all logical lines, without comments and layout; a string is shown as ""."""
    line, depth, start = 0, 0, (0, 0)
    for part in tokenize.generate_tokens(io.StringIO(source).readline):
        name = token.tok_name[part.type]
        if name == "FSTRING_START":
            start = start if depth else part.start
            depth += 1
        elif name == "FSTRING_END":
            depth -= 1
            if not depth:
                yield Token('""', start, part.end, line)
        elif depth or part.type in LAYOUT:
            continue
        elif part.type == token.NEWLINE:
            line += 1
        else:
            word = {"STRING": '""', "NUMBER": "0"}.get(name, part.string)
            yield Token(word, part.start, part.end, line)


def _tags(source: str, tokens: list[Token]):
    """The span that each token is in: (role, number); None outside of all."""
    lines = source.splitlines(keepends=True)
    lines = io.StringIO(source).readlines()
    starts = {t.start: n for n, t in enumerate(tokens)}
    ends = {t.end: n for n, t in enumerate(tokens)}
    spans = [None] * len(tokens)

    def chars(line, column):
        text = lines[line - 1]
        return line, column if text.isascii() else len(text.encode()[:column].decode())

    def claim(role, first, last):
        if first is None or last is None or any(spans[first : last + 1]):
            return
        spans[first : last + 1] = [(role, first)] * (last + 1 - first)

    def start(node):
        return starts.get(chars(node.lineno, node.col_offset))

    def end(node):
        return ends.get(chars(node.end_lineno, node.end_col_offset))

    def dotted_from(n):
        last = n
        while last + 2 < len(tokens) and tokens[last + 1].word == ".":
            last += 2
        return last

    def name(role, node):
        if _is_dotted(node):
            claim(role, start(node), end(node))
        elif isinstance(node, ast.Attribute):
            claim(role, end(node), end(node))

    for node in _walk(ast.parse(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                first = start(node)
                first += 1 + isinstance(node, ast.AsyncFunctionDef)
                claim("class" if isinstance(node, ast.ClassDef) else "function", first, first)
                for d in node.decorator_list:
                    name("decorator", d.func if isinstance(d, ast.Call) else d)
                for b in getattr(node, "bases", []):
                    name("base", b)
            case ast.arg():
                claim("parameter", start(node), start(node))
            case ast.keyword(arg=str()):
                claim("keyword", start(node), start(node))
            case ast.Import():
                for a in node.names:
                    claim("module", start(a), dotted_from(start(a)))
            case ast.ImportFrom():
                first = start(node) + 1
                while tokens[first].word in (".", "..."):
                    first += 1
                if node.module:
                    claim("module", first, dotted_from(first))
                for a in node.names:
                    if a.name != "*":
                        claim("import", start(a), start(a))
            case ast.ExceptHandler(type=ast.expr()):
                for e in getattr(node.type, "elts", [node.type]):
                    name("exception", e)
            case ast.Call():
                name("call", node.func)
            case ast.Attribute():
                claim("attribute", end(node), end(node))
            case ast.Name(ctx=ast.Store()):
                claim("variable", start(node), start(node))
    return spans


def _is_dotted(node: ast.AST) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, outer ones first, but none within f-strings, whose places are not exact."""
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        if not isinstance(node, ast.JoinedStr):
            yield node
            nodes.extend(ast.iter_child_nodes(node))
