"""Stragglers: processes that wait longer for their data than the others, which wait for them."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax

from jdl.parallel import processes

LOOK_SECONDS = 5.0  # least time between two looks: publishing must not slow training down
LOOKS = 13  # that are remembered: a share is that of the last minute, or of 12 intervals of logs
ENTRIES = "data_waits"  # the name of the shares in the key-value store
TIMES, MORE = 2.0, 0.1  # of a straggler's share of time, to the median of the others'


def stragglers(shares: Mapping[int, float]) -> dict[int, float]:
    """The stragglers: the processes that wait for their data much longer than others, by index.

    `shares` are the parts of their time in which they wait. A straggler's is more than twice the
    median of all others', and more than a tenth above it. The value is that median.
    """
    medians = {
        process: statistics.median(share for other, share in shares.items() if other != process)
        for process in shares
        if len(shares) > 1
    }
    return {
        process: median
        for process, median in medians.items()
        if shares[process] > max(TIMES * median, median + MORE)
    }


@dataclass
class StragglerWatch:
    """Watches for stragglers among the processes (hosts) of a run, and names each once.

    What a process does until it calls its step is its own; from there on all take the same time,
    as they wait for each other. `waited` gives the seconds in which this one has waited for data.
    It is published in the key-value store: no process waits for another, and no device is used.
    """

    waited: Callable[[], float]
    note: Callable[[str], None]
    looks: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=LOOKS))
    """The clock and `waited` at the last looks."""

    named: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Withdraws what this process has published in an earlier run, before the first step."""
        if processes.several():
            processes.withdraw(ENTRIES)

    def look(self) -> None:
        """Publishes this process's share, and in the first one notes who is new among stragglers.

        The first call begins the time: before, steps were compiled, and files opened.
        """
        if not processes.several():
            return
        now, waited = time.monotonic(), self.waited()
        if self.looks and now - self.looks[-1][0] < LOOK_SECONDS:
            return
        self.looks.append((now, waited))
        if len(self.looks) == 1:
            return
        then, before = self.looks[0]
        share = (waited - before) / (now - then)
        processes.publish(ENTRIES, json.dumps([share, socket.gethostname()]))
        if processes.is_first():
            self._name(processes.published(ENTRIES))

    def _name(self, entries: Mapping[int, str]) -> None:
        found = {process: json.loads(text) for process, text in entries.items()}
        for process, others in stragglers({n: share for n, (share, _) in found.items()}).items():
            if process in self.named:
                continue
            self.named.add(process)
            share, host = found[process]
            self.note(
                f"Process {process} of {jax.process_count()}, on {host}, waits for its data in "
                f"{share:.0%} of its time, the others in {others:.0%} (median), and they wait for "
                "it: look at that host's disk, network and processor"
            )
