"""Numbers as text."""

from __future__ import annotations

SMALL = 0.1  # below it, fixed decimals would show fewer significant digits


def number_text(value: float, digits: int = 4) -> str:
    """A metric as it is printed: to `digits` decimals, and a small one to `digits` digits."""
    return f"{value:#.{digits}g}" if 0 < abs(value) < SMALL else f"{value:.{digits}f}"
