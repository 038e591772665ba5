"""Detokenization: the text of generated tokens, at once or as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from jdl.types import Tokenizer


def decode_stream(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens, piece by piece: a letter of several tokens when all of them are there."""
    decoder = StreamDecoder(tokenizer)
    for token in tokens:
        if piece := decoder.push(token):
            yield piece
    if rest := decoder.rest():
        yield rest


@dataclass(eq=False)
class StreamDecoder:
    """Incremental detokenization: the text of tokens as they come, in whole letters.

    It decodes the tokens since the last whole letter and the token before them, which some
    tokenizers need for spaces, so that a long text costs no more a token than a short one.
    """

    tokenizer: Tokenizer
    tokens: list[int] = field(default_factory=list)  # those that are decoded together
    written: str = ""  # what was given of their text

    def push(self, token: int) -> str:
        """The text that is certain now, empty inside of a letter."""
        self.tokens.append(token)
        text = self.tokenizer.decode(self.tokens)
        whole = not text.endswith("\ufffd")
        certain = text if whole else text[:-1]  # the end may be a part of a letter
        if not certain.startswith(self.written):
            return ""
        piece = certain[len(self.written) :]
        self.written = certain
        if whole and piece:
            self.tokens = self.tokens[-1:]
            self.written = self.tokenizer.decode(self.tokens)
        return piece

    def rest(self) -> str:
        """The text that was held back, at the end."""
        return self.tokenizer.decode(self.tokens)[len(self.written) :]


def decode_until_end(tokenizer: Tokenizer, tokens: np.ndarray) -> str:
    """The text of the tokens (n,) up to the first end-of-text token."""
    ends = np.flatnonzero(tokens == tokenizer.eos_id)
    return tokenizer.decode(tokens[: ends[0]] if len(ends) else tokens)
