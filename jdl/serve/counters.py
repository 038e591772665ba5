"""What a server counts, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TEXT = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Counters:
    """Requests by route and status, and a histogram of how long they took."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: Counter[float] = field(default_factory=Counter)  # by the upper bound of the bucket
    total: float = 0.0

    def count(self, route: str, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        self.requests[route, status] += 1
        self.seconds[next((b for b in SECONDS if seconds <= b), float("inf"))] += 1
        self.total += seconds

    def lines(self) -> list[str]:
        """Its lines for `/metrics`."""
        by_route = [
            ({"route": route, "status": status}, count)
            for (route, status), count in sorted(self.requests.items())
        ]
        lines = family("jdl_requests_total", "counter", "Requests answered.", by_route)
        name, below = "jdl_request_seconds", 0
        lines += [f"# HELP {name} How long requests took.", f"# TYPE {name} histogram"]
        for bound in SECONDS:
            below += self.seconds[bound]
            lines.append(f'{name}_bucket{{le="{bound}"}} {below}')
        count = self.seconds.total()
        return [
            *lines,
            f'{name}_bucket{{le="+Inf"}} {count}',
            f"{name}_sum {self.total:.6f}",
            f"{name}_count {count}",
        ]


def family(
    name: str, kind: str, help: str, values: Iterable[tuple[dict[str, Any], float]]
) -> list[str]:
    """The lines of one metric: its help, its kind, and a line for each set of labels."""
    lines = [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
    for labels, value in values:
        shown = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
        lines.append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
