"""Tokenizers: text to tokens (integers) and back; byte-level, or subwords by BPE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jdl.types import Error

END_TOKENS = ("<|endoftext|>", "</s>", "<eos>", "[SEP]", "<|end_of_text|>")
MASK_TOKENS = ("[MASK]", "<mask>", "<|mask|>")


@dataclass(frozen=True)
class ByteTokenizer:
    """A byte-level tokenizer (as of ByT5, Xue et al., 2022), which needs no file.

    A token is a byte of UTF-8; 256 is the end-of-text token and 257 the mask token.
    """

    vocab_size: int = 258
    eos_id: int = 256
    mask_id: int | None = 257

    def encode(self, text: str) -> np.ndarray:
        """The bytes of the text, (n,) of int32."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, without end and mask tokens; bytes that are not UTF-8 become U+FFFD."""
        return bytes(int(token) for token in tokens if token < 256).decode(errors="replace")


class SubwordTokenizer:
    """A subword tokenizer of Hugging Face's library `tokenizers`.

    Its end-of-text and mask tokens are recognised by their usual names, or are named by `eos_token`
    and `mask_token`. Raises `Error` where there is no end-of-text token.
    """

    def __init__(
        self, tokenizer: Any, eos_token: str | None = None, mask_token: str | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self.vocab_size: int = tokenizer.get_vocab_size()
        ends = (eos_token,) if eos_token else END_TOKENS
        eos_id = self._first(ends)
        if eos_id is None:
            raise Error(
                f"The tokenizer has none of the tokens {', '.join(ends)}: name its end-of-text "
                "token, eos_token=..."
            )
        self.eos_id: int = eos_id
        self.mask_id: int | None = self._first((mask_token,) if mask_token else MASK_TOKENS)

    def _first(self, names: Sequence[str]) -> int | None:
        """The token of the first of these names that the vocabulary has."""
        tokens = (self._tokenizer.token_to_id(name) for name in names)
        return next((token for token in tokens if token is not None), None)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of the text, (n,) of int32, without special ones."""
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, without special tokens."""
        return self._tokenizer.decode([int(token) for token in tokens])

    def save(self, path: str | Path) -> None:
        """Writes the tokenizer to a `tokenizer.json`, which `load_tokenizer` reads."""
        self._tokenizer.save(str(path))


def load_tokenizer(
    path: str | Path, eos_token: str | None = None, mask_token: str | None = None
) -> SubwordTokenizer:
    """The tokenizer in a `tokenizer.json`, the file of Hugging Face's library and its models."""
    library = _library()
    try:
        tokenizer = library.Tokenizer.from_file(str(path))
    except Exception as error:  # what the library raises is a bare Exception
        raise Error(f"{path} cannot be read as a tokenizer file: {error}.") from error
    return SubwordTokenizer(tokenizer, eos_token, mask_token)


def train_bpe(texts: Sequence[str], size: int) -> SubwordTokenizer:
    """Trains a tokenizer of `size` tokens by byte pair encoding (BPE; Sennrich et al., 2016).

    The vocabulary begins with all bytes (Radford et al., 2019), so that any text can be encoded.
    """
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_TOKENS[0], MASK_TOKENS[0]],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return SubwordTokenizer(tokenizer)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise Error(
            "Subword tokenizers need the library tokenizers: pip install 'jdl[text]'."
        ) from error
    return tokenizers
