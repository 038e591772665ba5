"""What a sanity check found."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["ok", "wrong", "note", "n/a"]
WIDTH = 17  # of a check's name


@dataclass(frozen=True)
class Finding:
    """What one check found: its verdict, a sentence, and what to do where something is wrong.

    "note" is worth a look and may be as you want it; "n/a" says why the check does not apply.
    """

    check: str
    verdict: Verdict
    text: str
    advice: str = ""

    def __str__(self) -> str:
        verdict = self.verdict.upper() if self.verdict == "wrong" else self.verdict
        line = f"{verdict:<5}  {self.check:<{WIDTH}}  {self.text}"
        return f"{line}\n{'':<{WIDTH + 9}}-> {self.advice}" if self.advice else line


def of_exception(check: str, verdict: Verdict, error: Exception, advice: str) -> Finding:
    """The finding of a check in which the user's code raised an exception, with its line."""
    return Finding(check, verdict, with_line(error), advice)


def with_line(error: Exception) -> str:
    """An exception's type and message, and the last line of the user's code that it came by."""
    others = (Path(__file__).parents[2], Path(traceback.__file__).parent)  # jdl, Python's own
    lines = [
        f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "-packages" not in frame.filename
        and not any(Path(frame.filename).is_relative_to(folder) for folder in others)
    ]
    message = str(error).strip().split("\n")[0]
    text = f"{type(error).__name__}: {message}"
    return f"{text} ({lines[-1]})" if lines else text
