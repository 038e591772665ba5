"""Orbax's log messages on what jdl does on purpose."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

EXPECTED = (
    "Requested `tracked_metric`; did not provide metrics",  # of a state that is not evaluated
    "CheckpointManagerOptions.read_only=True",
    "Given directory is read only=",
)


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """Within it, the expected messages are not logged; all others of absl's logger are."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(EXPECTED)

    logger = logging.getLogger("absl")
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
