"""Numbers as text."""

from __future__ import annotations

SMALL = 0.1  # below it, decimals would be fewer digits than they are


def number_text(value: float, digits: int = 4) -> str:
    """A metric as it is printed: to `digits` decimals, and where it is small to as many digits."""
    return f"{value:#.{digits}g}" if 0 < abs(value) < SMALL else f"{value:.{digits}f}"
