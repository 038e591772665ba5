"""Bytes, FLOPs and seconds in words."""

PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
TIMES = (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0))


def amount(value: float, unit: str) -> str:
    """1.23e9 and "B" as 1.2 GB."""
    for prefix, size in PREFIXES:
        if value >= size:
            number = value / size
            return (
                f"{number:.3g} {prefix}{unit}" if number < 1e3 else f"{number:,.0f} {prefix}{unit}"
            )
    return f"{value:.3g} {unit}".rstrip()


def short(seconds: float) -> str:
    """The time of a step."""
    if seconds >= 1:
        return lasting(seconds)
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} us"


def lasting(seconds: float) -> str:
    """The time of a run."""
    for unit, size in TIMES:
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
