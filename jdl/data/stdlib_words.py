"""The words in the identifiers of Python's standard library, in the order of the code."""

from __future__ import annotations

import io
import keyword
import re
import tokenize

from jdl.data import corpus

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def stdlib_words() -> list[list[str]]:
    """The words of each file of Python's standard library, for `word_windows`.

    They are the words of its identifiers, in lower case and in the order of the code: `readLine`,
    `read_line` and `ReadLine` are read and line. Keywords, strings and comments are left out.
    """
    return [words(text) for text in corpus.stdlib()]


def words(source: str) -> list[str]:
    """The words of the identifiers in Python source, which is not executed.

    What follows an error of the source is left out.
    """
    found: list[str] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                found += [word.lower() for word in WORD.findall(token.string)]
    except (tokenize.TokenError, SyntaxError):
        pass
    return found
