"""The return curve of a run that plays: what its log says of returns, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RETURN = "return"


def draw_returns(lines: list[dict[str, Any]], path: Path) -> bool:
    """Draws the returns in a log's lines as a PNG, of training and evaluation; of a population, from least to greatest.

    Where no line tells of any, it draws nothing and says so.
    """
    from matplotlib.figure import Figure  # a second of import that only the end of a run needs

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    splits = dict.fromkeys(line["split"] for line in lines)  # in their order
    told = [
        split
        for split in splits
        if _curve(axes, [line for line in lines if line["split"] == split], split)
    ]
    if not told:
        return False
    axes.set_xlabel("step")
    axes.set_ylabel("return of an episode")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return True


def _curve(axes: Any, lines: list[dict[str, Any]], split: str) -> bool:
    mean = next(
        (
            name
            for name in (RETURN, f"{RETURN}/mean")
            if any(line.get(name) is not None for line in lines)
        ),
        None,
    )
    if mean is None:
        return False
    lines = [line for line in lines if line.get(mean) is not None]
    steps = [line["step"] for line in lines]
    (curve,) = axes.plot(
        steps,
        [line[mean] for line in lines],
        label=split,
        linewidth=1.0 if split == "train" else 2.0,
    )
    if mean != RETURN:
        least, most = ([line[f"{RETURN}/{end}"] for line in lines] for end in ("min", "max"))
        axes.fill_between(steps, least, most, color=curve.get_color(), alpha=0.2, linewidth=0)
    return True
