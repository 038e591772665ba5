"""Dialogues of a user and an assistant, for chat models: the answers alone are learned."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.padding import padded, padded_length
from jdl.data.text_files import is_utf8, json_rows
from jdl.data.tokenizers import ByteTokenizer, load_tokenizer
from jdl.types import Error, Tokenizer

ROLES = ("system", "user", "assistant")
Message = Mapping[str, str]  # {"role": "user", "content": "Hello"}
Messages = Sequence[Message]


@dataclass(frozen=True, eq=False, repr=False)
class Dialogues(Dataset):
    """A dataset of dialogues; see `dialogues`."""

    tokenizer: Tokenizer = field(default_factory=ByteTokenizer)
    bytes_per_token: float = 1.0  # of the tokens that are learned, with their ends
    truncated: int = 0  # dialogues whose last messages were left out

    @property
    def vocab_size(self) -> int:
        """The tokens of the tokenizer, and one for each role."""
        return vocab_size(self.tokenizer)


def dialogues(
    *sources: Any, tokenizer: Tokenizer | str | Path | None = None, max_length: int = 256
) -> Any:
    """Dialogues to train a chat model on: `dialogues("chats.jsonl")`.

    For supervised fine-tuning (SFT), or instruction tuning. A source is a .jsonl file whose lines
    are {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content":
    "..."}]}, or a list of such lists of messages. Roles are system (at the beginning: the system
    prompt), user and assistant. The chat template is fixed: a message becomes the token of its
    role, which no text contains, the tokens of its content, and the end token, at which an answer
    stops. Subword tokenizers also encode a written end token, <|endoftext|>, as that token.

    Columns: x (T,), tokens padded with 0; `length`, their number; and `loss_mask` (T,), the loss
    mask: 1 for the tokens of answers and their ends, which alone count in the loss of `next_token`.
    The model's vocabulary is the dataset's `vocab_size`, and `bytes_per_token` is for
    `next_token`'s bits per byte.

    Of a dialogue of more than `max_length` tokens the last messages are left out. The tokenizer is
    the file or object given, or bytes. Several sources, such as training and test, give a dataset
    each. Raises `Error` with file and line for a message without text or of another role, and for a
    dialogue without an answer within `max_length`.
    """
    if not sources:
        raise Error("dialogues takes at least one source: a .jsonl file, or a list of dialogues.")
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(tokenizer)
    chosen = tokenizer or ByteTokenizer()
    parts = [_encode(source, chosen, max_length) for source in sources]
    longest = max(len(tokens) for rows, _ in parts for tokens, _ in rows)
    steps = padded_length(longest, max_length)
    datasets = []
    for source, (rows, truncated) in zip(sources, parts, strict=True):
        if truncated:
            name = source if isinstance(source, str | Path) else "The dialogues"
            warnings.warn(
                f"{name}: {truncated} of {len(rows)} dialogues have more than {max_length} tokens: "
                "their last messages are left out.",
                stacklevel=2,
            )
        plain = arrays((), **_columns(rows, steps))
        size = _bytes_per_token(rows, chosen)
        options = (chosen, size, truncated)
        datasets.append(Dialogues(plain.source, plain.ids, (), plain.device_bytes, *options))
    return datasets[0] if len(datasets) == 1 else tuple(datasets)


def vocab_size(tokenizer: Tokenizer) -> int:
    """The tokens of a tokenizer, and one for each role."""
    return tokenizer.vocab_size + len(ROLES)


def prompt_tokens(tokenizer: Tokenizer, messages: Messages) -> np.ndarray:
    """The tokens (n,) of messages up to where the assistant's answer begins."""
    check(messages, "The conversation")
    tokens = [token for message in messages for token in _message(tokenizer, message)]
    return np.asarray([*tokens, _role(tokenizer, "assistant")], np.int32)


def check(messages: Any, place: str) -> None:
    """Raises `Error` if these are no messages, or if the order of their roles makes no dialogue."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise Error(f"{place} has no messages, a list of {{role, content}}, but {messages!r:.60}.")
    before = None
    for n, message in enumerate(messages):
        role, content = (
            (message.get("role"), message.get("content"))
            if isinstance(message, Mapping)
            else (None, None)
        )
        if role not in ROLES:
            raise Error(
                f"{place}: message {n} is of the role {role!r:.40}; roles are {', '.join(ROLES)}."
            )
        if not isinstance(content, str) or not content.strip():
            raise Error(f"{place}: message {n}, of the {role}, has no text, but {content!r:.40}.")
        if not is_utf8(content):
            raise Error(f"{place}: message {n}, of the {role}, is not UTF-8: save it as UTF-8.")
        if (role == "system" and n) or (role == "assistant" and before != "user"):
            after = f"after one of the {before}" if before else "first"
            raise Error(
                f"{place}: message {n}, of the {role}, comes {after}. A dialogue begins with at "
                "most one message of the system, and each answer follows a message of the user."
            )
        before = role


def _encode(
    source: Any, tokenizer: Tokenizer, max_length: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
    """Each dialogue's tokens and which of them are learned; and how many were too long."""
    rows, truncated = [], 0
    for place, messages in _dialogues(source):
        check(messages, place)
        tokens, learned, fitting = [], [], 0
        for message in messages:
            of_message = _message(tokenizer, message)
            answer = message["role"] == "assistant"
            tokens += of_message
            learned += [False] + [answer] * (len(of_message) - 1)
            if answer and len(tokens) <= max_length:
                fitting = len(tokens)
        if not fitting:
            raise Error(
                f"{place} has no answer of the assistant within {max_length} tokens, of its "
                f"{len(tokens)}: raise max_length, or take it out."
            )
        truncated += len(tokens) > max_length
        rows.append((np.asarray(tokens[:fitting], np.int32), np.asarray(learned[:fitting])))
    if not rows:
        raise Error(f"{source if isinstance(source, str | Path) else 'The list'} has no dialogue.")
    return rows, truncated


def _dialogues(source: Any) -> Iterator[tuple[str, Any]]:
    """Where each dialogue of a source is, and its messages."""
    if not isinstance(source, str | Path):
        yield from ((f"Dialogue {n}", messages) for n, messages in enumerate(source))
        return
    path = Path(source)
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        raise Error(
            f"{path} is no .jsonl file, with a line {{'messages': [...]}} for each dialogue: "
            "convert it, or give a list of dialogues."
        )
    for place, row in json_rows(path):
        if isinstance(row, str):
            raise Error(f"{place} {row}.")
        yield place, row.get("messages")


def _message(tokenizer: Tokenizer, message: Message) -> list[int]:
    content = np.asarray(tokenizer.encode(message["content"])).tolist()
    return [_role(tokenizer, message["role"]), *content, tokenizer.eos_id]


def _role(tokenizer: Tokenizer, role: str) -> int:
    return tokenizer.vocab_size + ROLES.index(role)


def _columns(rows: Sequence[tuple[np.ndarray, np.ndarray]], steps: int) -> dict[str, np.ndarray]:
    x, lengths = padded([tokens for tokens, _ in rows], steps)
    learned, _ = padded([row for _, row in rows], steps, bool)
    return {"x": x, "length": lengths, "loss_mask": learned}


def _bytes_per_token(rows: Sequence[tuple[np.ndarray, np.ndarray]], tokenizer: Tokenizer) -> float:
    """The mean number of bytes of the tokens that are learned; an end token counts as one byte."""
    learned = [tokens[counted] for tokens, counted in rows]
    ends = sum(int((tokens == tokenizer.eos_id).sum()) for tokens in learned)
    size = sum(len(tokenizer.decode(tokens.tolist()).encode()) for tokens in learned)
    return (size + ends) / sum(map(len, learned))
