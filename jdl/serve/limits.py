"""What a client may ask of a server, and the error that it gets beyond it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from jdl.types import Error


@dataclass(frozen=True)
class Limits:
    """Limits of a server: of a batch, of the queue, and of what one request may hold and take."""

    max_batch: int = 64  # rows that are computed at once; larger requests are computed in parts
    queue: int = 256  # requests that wait for a program; more are answered 503
    wait_ms: float = 0.0  # how long a batch that is not full waits for others
    timeout: float = 30.0  # seconds that a request may take, its body included
    max_rows: int = 1024  # of a request
    max_body: int = 16 << 20  # bytes of a request
    max_memory: int = 256 << 20  # bytes of all bodies that are read, and of all rows that wait
    max_text: int = 1 << 16  # characters of a text
    slots: int = 8  # texts that a language model writes at once
    max_new_tokens: int = 4096  # of a text
    generation_timeout: float = 300.0  # seconds that a text may take; then it ends

    def __post_init__(self) -> None:
        for name in (
            *("max_batch", "queue", "max_rows", "max_body", "max_memory", "max_text"),
            *("slots", "max_new_tokens"),
        ):
            if getattr(self, name) < 1:
                raise Error(f"{name} must be 1 or more, not {getattr(self, name)}.")
        if self.max_body > self.max_memory:
            raise Error(
                f"max_body ({self.max_body:,}) must not be above max_memory ({self.max_memory:,}), "
                "the bytes of all requests together: raise that too."
            )
        times = self.timeout, self.generation_timeout
        if not all(0 < seconds < math.inf for seconds in times) or not 0 <= self.wait_ms < math.inf:
            raise Error(
                f"The timeouts (seconds, {times}) must be above 0 and wait_ms ({self.wait_ms}) 0 "
                "or more, and both finite."
            )


@dataclass(eq=False)
class RequestError(Exception):
    """A request that is refused: an HTTP status, and what is wrong with it, for its client."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


def busy(message: str) -> RequestError:
    """503 with Retry-After: what the server cannot take now."""
    return RequestError(503, message, {"Retry-After": "1"})
