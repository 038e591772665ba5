"""Which modules a file of Python's standard library imports, as data for recommendation."""

from __future__ import annotations

import ast

from jdl.data import corpus
from jdl.data.interactions import Interactions, interactions


def stdlib_imports() -> tuple[Interactions, Interactions, Interactions]:
    """Recommendation: which module does a file of the standard library import next?

    Datasets (train, valid, test) of `interactions`: a user is a file, its items are the top-level
    modules that it imports, in their order. To be found are the last module of each file (test) and
    the one before (valid), in files of three or more. The files are read by Python's own parser,
    and not executed.
    """
    pairs = [(str(n), name) for n, text in enumerate(corpus.stdlib()) for name in imports(text)]
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    return interactions({"user": users, "item": items})


def imports(source: str) -> list[str]:
    """The top-level modules that Python source imports, each once, in the order of the text.

    Relative imports are of the file's own package, and are left out.
    """
    found: list[tuple[int, int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.lineno, alias.col_offset, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.lineno, node.col_offset, node.module))
    return list(dict.fromkeys(name.partition(".")[0] for _, _, name in sorted(found)))
