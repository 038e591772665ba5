"""The forms of OpenAI's answers: completions and chat completions, whole and in chunks."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jdl.serve.engine import LENGTH, STOP, Piece


@dataclass(frozen=True)
class Completion:
    """The form of completions: texts."""

    model: str
    created: int  # seconds since 1970
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    kind = "text_completion"
    chunk_kind = "text_completion"

    def whole(self, pieces: Sequence[Piece], prompt: int, new: int) -> dict[str, Any]:
        """All answers, and the numbers of tokens."""
        choices = [
            self._choice(n, piece.text, STOP if piece.finish == STOP else LENGTH)
            for n, piece in enumerate(pieces)
        ]
        return {**self._head(self.kind), "choices": choices, "usage": _usage(prompt, new)}

    def begin(self, n: int) -> dict[str, Any] | None:
        """The first chunk of an answer, if there is one before its text."""
        return None

    def part(self, n: int, text: str) -> dict[str, Any]:
        """A chunk of an answer's text."""
        return self._chunk(self._choice(n, text, None))

    def end(self, n: int, reason: str) -> dict[str, Any]:
        """The last chunk of an answer."""
        return self._chunk(self._choice(n, "", reason))

    def usage(self, prompt: int, new: int) -> dict[str, Any]:
        """The chunk with the numbers of tokens, after all answers."""
        return {**self._head(self.chunk_kind), "choices": [], "usage": _usage(prompt, new)}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._head(self.chunk_kind), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, n: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": n, "text": text, "logprobs": None, "finish_reason": reason}


@dataclass(frozen=True)
class Chat(Completion):
    """The form of chat completions: messages of the assistant."""

    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def begin(self, n: int) -> dict[str, Any]:
        """The role."""
        return self._chunk(self._delta(n, {"role": "assistant", "content": ""}, None))

    def part(self, n: int, text: str) -> dict[str, Any]:
        """A part of the message."""
        return self._chunk(self._delta(n, {"content": text}, None))

    def end(self, n: int, reason: str) -> dict[str, Any]:
        """Why it ended."""
        return self._chunk(self._delta(n, {}, reason))

    def _choice(self, n: int, text: str, reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": n, "message": message, "logprobs": None, "finish_reason": reason}

    def _delta(self, n: int, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        return {"index": n, "delta": delta, "logprobs": None, "finish_reason": reason}


def _usage(prompt: int, new: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def failure(status: int, message: str) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = "model_not_found" if status == 404 else None
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
