"""What a sanity check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jdl.inspect.exceptions import with_line

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
