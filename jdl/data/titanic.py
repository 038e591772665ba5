"""The passengers of the Titanic: a table with categories, missing values and two classes."""

from __future__ import annotations

import lzma
import pickletools
from typing import Any

import numpy as np

from jdl.data.fetch import dataset_folder
from jdl.data.table import Table
from jdl.data.table_files import frame

ROWS = 1_309
AGES = 200  # where the block of ages begins
TEXTS = ("name", "survived", "sex", "class")  # the columns of texts, in the file's order


def titanic(**options: Any) -> Table:
    """The 1,309 passengers of the Titanic (Harrell and Cason): who survived?

    Columns: sex and class, which are categories, age, which is missing in 263 rows, and the
    target, survived: no or yes. `options` are those of `TableOptions`. Fetch it once with
    `jdl data fetch titanic`.
    """
    # Loading a pickle may execute code, so its numbers are read at their offset, and its texts from
    # its list of instructions; the checksum guarantees that it is the file with these.
    path = dataset_folder("titanic") / "TitanicSurvival.pkl.compress"
    content = lzma.decompress(path.read_bytes())
    texts = np.asarray(_texts(content)).reshape(len(TEXTS), ROWS)
    columns: dict[str, Any] = dict(zip(TEXTS[1:], texts[1:], strict=True))
    columns["age"] = np.frombuffer(content, "<f8", ROWS, offset=AGES)
    return frame(columns, target="survived", **options)


def _texts(pickle: bytes) -> list[str]:
    """The longest list of texts in a pickle, by its instructions; nothing of it is executed."""
    memo: list[str | None] = []  # what was read before and is named again: a text, or None
    longest: list[str] = []
    texts: list[str] = []
    last: str | None = None
    for instruction, argument, _ in pickletools.genops(pickle):
        name = instruction.name
        if name == "MEMOIZE":
            memo.append(last)
        elif name not in ("FRAME", "MARK", "APPENDS"):  # a list is written in several parts
            text = str(argument) if name.endswith("UNICODE") else None
            last = memo[int(str(argument))] if name in ("BINGET", "LONG_BINGET") else text
            texts = [] if last is None else texts
            texts += [] if last is None else [last]
            longest = max(longest, texts, key=len)
    return longest
