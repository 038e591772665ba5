"""What becomes of bad rows and files: an error, or they are left out and listed."""

from __future__ import annotations

from typing import Literal

from jdl.errors import Error

OnBad = Literal["raise", "skip"]


def check_on_bad(on_bad: str) -> None:
    """Raises `Error` for what is neither."""
    if on_bad not in ("raise", "skip"):
        raise Error(f'on_bad is "raise" or "skip", not {on_bad!r}.')
