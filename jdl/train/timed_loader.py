"""A data loader that measures how long the training loop waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from jdl.types import Array, Batch, Error, Loader


class TimedLoader(Loader):
    """A loader with the same batches; `seconds` is the total time spent waiting for them."""

    def __init__(self, data: Loader) -> None:
        self.data, self.seconds = data, 0.0

    def __len__(self) -> int:
        return len(self.data)

    @property
    def spec(self) -> Batch:
        """The data's."""
        return self.data.spec

    def read(self, start: int = 0) -> Iterator[Any]:
        """The data's; raises `Error` where they end."""
        raw_batches = self.data.read(start)
        while True:
            before = time.perf_counter()
            try:
                raw = next(raw_batches)
            except StopIteration:
                raise Error(
                    f"{type(self.data).__name__}.read has ended, and must be endless: begin the "
                    "next epoch after the last."
                ) from None
            self.seconds += time.perf_counter() - before
            yield raw

    def batch(self, raw: Any, i: Array) -> Batch:
        """The data's."""
        return self.data.batch(raw, i)
