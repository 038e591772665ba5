"""Exceptions of the user's code in words."""

from __future__ import annotations

import traceback
from pathlib import Path


def with_line(error: Exception) -> str:
    """An exception's type and message, and the last line of the user's code that it came by."""
    others = (Path(__file__).parents[1], Path(traceback.__file__).parent)  # jdl, Python's own
    lines = [
        f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "-packages" not in frame.filename
        and not any(Path(frame.filename).is_relative_to(folder) for folder in others)
    ]
    message = str(error).strip().split("\n")[0]
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{text} ({lines[-1]})" if lines else text
