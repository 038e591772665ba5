"""Tokenizers: text to tokens (integers) and back; byte-level, or subwords by BPE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jdl.types import Error, Tokenizer

VOCABULARY = "vocab.txt"
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

    def encode_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The tokens of each text, and the span (n, 2) of each in characters: start and end."""
        encoded = []
        for text in texts:
            place = np.repeat(np.arange(len(text)), [len(letter.encode()) for letter in text])
            encoded.append((self.encode(text), np.stack([place, place + 1], -1)))
        return encoded

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
        tokenizer.no_truncation()  # files of models often have both
        tokenizer.no_padding()
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

    @property
    def eos_token(self) -> str:
        """The end-of-text token by its name."""
        return self._tokenizer.id_to_token(self.eos_id)

    def _first(self, names: Sequence[str]) -> int | None:
        """The token of the first of these names that the vocabulary has."""
        tokens = (self._tokenizer.token_to_id(name) for name in names)
        return next((token for token in tokens if token is not None), None)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of the text, (n,) of int32, without special ones."""
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text, as `encode` gives them, by several threads."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int32) for encoding in encoded]

    def encode_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The tokens of each text, and the span (n, 2) of each in characters: start and end."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.asarray(one.ids, np.int32), np.asarray(one.offsets, int).reshape(-1, 2))
            for one in encoded
        ]

    def special_tokens(self, texts: int) -> list[list[int]]:
        """The special tokens before a text, and after it; or around the two texts of a pair.

        They are those of the tokenizer's own template: [CLS] before the first text and [SEP] after
        each, of BERT. Without a template, the end-of-text token follows each text.
        """
        sample = self._tokenizer.encode(*["a"] * texts)
        if not any(sample.special_tokens_mask):
            return [[], *[[self.eos_id]] * texts]
        groups: list[list[int]] = [[]]
        for n, (token, text) in enumerate(zip(sample.ids, sample.sequence_ids, strict=True)):
            if text is None:
                groups[-1].append(token)
            elif text not in sample.sequence_ids[:n]:
                groups.append([])
        return groups

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, without special tokens."""
        return self._tokenizer.decode([int(token) for token in tokens])

    def save(self, path: str | Path) -> None:
        """Writes the tokenizer to a `tokenizer.json`, which `load_tokenizer` reads."""
        self._tokenizer.save(str(path))


def load_tokenizer(
    path: str | Path, eos_token: str | None = None, mask_token: str | None = None
) -> SubwordTokenizer:
    """The tokenizer of a model of Hugging Face: its `tokenizer.json`, or the `vocab.txt` of a BERT.

    `path` is the file, or the folder that has it. A vocab.txt lists the tokens of WordPiece
    (Schuster and Nakajima, 2012), one a line; texts are lowercased unless a tokenizer_config.json
    beside it says otherwise. Raises `Error` where there is no such file, or it cannot be read.
    """
    library, path = _library(), Path(path)
    if path.is_dir():
        files = [path / "tokenizer.json", path / VOCABULARY]
        path = next((file for file in files if file.is_file()), files[0])
    try:
        if path.name == VOCABULARY:
            tokenizer = _word_piece(library, path)
        else:
            tokenizer = library.Tokenizer.from_file(str(path))
    except Exception as error:  # what the library raises is a bare Exception
        raise Error(f"{path} cannot be read as a tokenizer file: {error}.") from error
    return SubwordTokenizer(tokenizer, eos_token, mask_token)


def _word_piece(library: Any, vocabulary: Path) -> Any:
    """BERT's tokenizer, as the library makes it of a vocabulary."""
    config = vocabulary.parent / "tokenizer_config.json"
    options = json.loads(config.read_text("utf-8")) if config.is_file() else {}
    lowercase = options.get("do_lower_case", True)
    whole = library.BertWordPieceTokenizer(str(vocabulary), lowercase=lowercase)
    return library.Tokenizer.from_str(whole.to_str())


def train_bpe(texts: Sequence[str], size: int, spaces: bool = True) -> SubwordTokenizer:
    """Trains a tokenizer of `size` tokens by byte pair encoding (BPE; Sennrich et al., 2016).

    The vocabulary begins with all bytes (Radford et al., 2019), so that any text can be encoded.
    Without `spaces` a text is split at spaces, which no token has, and around each punctuation
    mark, as BERT's tokenizer does: a word then has the same tokens wherever it stands, but the text
    that tokens are decoded to lacks its spaces.
    """
    if isinstance(texts, str):
        raise Error(
            "train_bpe takes a list of texts: give [text], as a string would be read as a list of "
            "its letters."
        )
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    split = library.pre_tokenizers
    tokenizer.pre_tokenizer = split.ByteLevel(add_prefix_space=False)
    if not spaces:
        as_bytes = split.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = split.Sequence([split.BertPreTokenizer(), as_bytes])
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    if size < (least := len(alphabet) + 2):
        raise Error(
            f"The bytes, the end token and the mask token are {least} tokens, so size must be at "
            f"least {least}, not {size}."
        )
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_TOKENS[0], MASK_TOKENS[0]],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return SubwordTokenizer(tokenizer)


def encode_texts(
    tokenizer: Tokenizer, rows: Sequence[Sequence[str]], max_length: int
) -> tuple[list[np.ndarray], int]:
    """The tokens of rows of one text or of two (pairs), special tokens included.

    Rows of more than `max_length` tokens are truncated, the longer text of a pair first; also
    returns how many were. Special tokens stay.
    """
    count = len(rows[0])
    flat = [text for row in rows for text in row]
    if isinstance(tokenizer, SubwordTokenizer):
        special, tokens = tokenizer.special_tokens(count), tokenizer.encode_batch(flat)
    else:
        special = [[], *[[tokenizer.eos_id]] * count]
        tokens = [tokenizer.encode(text) for text in flat]
    room = max_length - sum(map(len, special))
    if room < count:
        raise Error(
            f"max_length must be at least {count + max_length - room}: {max_length - room} special "
            f"tokens and one of each text; it is {max_length}."
        )
    encoded, truncated = [], 0
    frame = [np.asarray(group, np.int32) for group in special]
    for start in range(0, len(flat), count):
        parts = tokens[start : start + count]
        lengths = _fitting([len(part) for part in parts], room)
        truncated += sum(lengths) < sum(map(len, parts))
        pieces = [frame[0]]
        for part, length, after in zip(parts, lengths, frame[1:], strict=True):
            pieces += [part[:length], after]
        encoded.append(np.concatenate(pieces))
    return encoded, truncated


def _fitting(lengths: Sequence[int], room: int) -> list[int]:
    """The lengths, the longest cut so far that all together fit."""
    kept = list(lengths)
    for done, n in enumerate(sorted(range(len(kept)), key=kept.__getitem__)):
        kept[n] = min(kept[n], room // (len(kept) - done))
        room -= kept[n]
    return kept


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise Error(
            "Subword tokenizers need the library tokenizers: pip install 'jdl[text]'."
        ) from error
    return tokenizers
