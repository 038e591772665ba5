"""Stragglers: processes that wait longer for their data than the others, which wait for them."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax

from jdl.parallel import processes

LOOK_SECONDS = 5.0  # least time between two looks: publishing must not slow training down
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
    began: tuple[float, float] | None = None  # the clock and `waited`, when the first step was done
    looked: float = 0.0
    named: set[int] = field(default_factory=set)

    def look(self) -> None:
        """Publishes this process's share, and in the first one notes who is new among stragglers.

        The first call begins the time: before, steps were compiled, and files opened.
        """
        if not processes.several():
            return
        now = time.monotonic()
        if self.began is None:
            self.began, self.looked = (now, self.waited()), now
        if now - self.looked < LOOK_SECONDS:
            return
        self.looked = now
        share = (self.waited() - self.began[1]) / (now - self.began[0])
        processes.publish("data_waits", json.dumps([share, socket.gethostname()]))
        if processes.is_first():
            self._name(processes.published("data_waits"))

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
