"""Stop strings: texts at which a generation ends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class StopStrings:
    """Finds the first of some texts in a text that comes in pieces, and holds back what may be one.

    What is given never has a part of a stop string that is found later.
    """

    strings: tuple[str, ...] = ()
    held: str = ""
    found: bool = False

    def push(self, piece: str) -> str:
        """What can be given now; with `found`, all that comes before the stop string."""
        if self.found:
            return ""
        text = self.held + piece
        places = [place for string in self.strings if (place := text.find(string)) >= 0]
        if places:
            self.held, self.found = "", True
            return text[: min(places)]
        given = len(text) - max((_begun(text, string) for string in self.strings), default=0)
        self.held = text[given:]
        return text[:given]

    def rest(self) -> str:
        """What was held back, at the end."""
        rest, self.held = self.held, ""
        return rest


def _begun(text: str, string: str) -> int:
    """How many letters at the end of a text begin a string."""
    most = min(len(string) - 1, len(text))
    return next((n for n in range(most, 0, -1) if text.endswith(string[:n])), 0)
