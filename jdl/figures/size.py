"""The size of a model: bytes and operations by layer, and bytes in other forms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

MOST = 20  # layers that are drawn, the largest
LEAST = 0.5  # of their share in percent


def draw_size(
    nbytes: Mapping[str, int],
    operations: Mapping[str, int],
    forms: Mapping[str, tuple[int, float | None]],
    metric: str,
    path: Path,
) -> None:
    """Draws the shares of the largest layers in bytes and FLOPs, and the forms, as a PNG.

    `nbytes` and `operations` are by layer, `forms` the bytes and the metric, if any, by name.
    """
    from matplotlib.figure import Figure  # slow to import (1 s)

    totals = [max(1, sum(counts.values())) for counts in (nbytes, operations)]
    shares = {
        name: [
            100 * counts[name] / total
            for counts, total in zip((nbytes, operations), totals, strict=True)
        ]
        for name in nbytes
    }
    largest = sorted(shares, key=lambda name: -max(shares[name]))[:MOST]
    drawn = [name for name in nbytes if name in largest and max(shares[name]) >= LEAST]
    height = 0.34 * (len(drawn) + len(forms)) + 2.2
    figure = Figure(figsize=(8, height), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(len(drawn) + 1, len(forms) + 1))
    for offset, n, label in ((-0.2, 0, "bytes"), (0.2, 1, "operations (FLOP)")):
        places = [place + offset for place in range(len(drawn))]
        upper.barh(places, [shares[name][n] for name in drawn], 0.4, label=label)
    upper.set_yticks(range(len(drawn)), drawn)
    upper.set(xlabel="share of the model in %", title=f"{_bytes(totals[0])} in all")
    upper.legend()
    lower.barh(list(forms), [count / 1e3 for count, _ in forms.values()], color="tab:green")
    for place, (count, value) in enumerate(forms.values()):
        text = _bytes(count) + ("" if value is None else f", {metric} {value:.4f}")
        lower.text(count / 1e3, place, f" {text}", va="center")
    lower.set(xlabel="kB", xlim=(0, 1.9 * max(count for count, _ in forms.values()) / 1e3))
    for axes in (upper, lower):
        axes.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
