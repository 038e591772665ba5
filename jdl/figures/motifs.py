"""Motifs that a network for DNA has learned, as sequence logos, beside those that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jdl.data.fasta import BASES, DNA
from jdl.data.loader import DatasetLoader
from jdl.objectives.predict import map_rows
from jdl.parallel import processes
from jdl.run import Run
from jdl.types import Array, Batch, Error, Objective, Predicts, Variables

STRONG = 0.5  # of a filter's largest activation: windows above it count
LEAST_WINDOWS = 10  # of a motif
COLORS = {"A": "tab:green", "C": "tab:blue", "G": "tab:orange", "T": "tab:red"}
LEAST_HEIGHT = 0.01  # bits of a letter that is drawn
LOGOS, COLUMNS = 9, 3  # of the figure


@dataclass(frozen=True)
class Motif:
    """A motif that a filter of the first layer has learned."""

    name: str
    pwm: np.ndarray  # (width, 4): the share of A, C, G and T at each place of its windows
    windows: int  # rows that have it

    @property
    def bits(self) -> np.ndarray:
        """The information at each place, (width,)."""
        return information(self.pwm, self.windows)


def found_motifs(
    objective: Objective, variables: Variables, data: DatasetLoader[Any]
) -> list[Motif]:
    """The motifs of the filters in the first layer, those of most information first.

    A filter's motif is a position weight matrix (PWM) of the windows that most excite it: the
    strongest one of each row (Alipanahi et al., 2015), where it reaches half of the largest (Kelley
    et al., 2016). Filters with fewer than 10 windows are left out. Raises `Error` for a model whose
    predictions do not `scan` the bases, as those of `SequenceCNN` do.
    """
    scan = _scan_spec(objective, variables, data.spec)
    if scan is None:
        raise Error("Motifs are found in models with a method scan, such as SequenceCNN.")

    def strongest(variables: Variables, batch: Batch) -> Batch:
        """The largest activation of each filter, and the first base of its window: (B, K)."""
        activations = _scans(objective, variables, batch)[-1]
        return {"most": activations.max(1), "place": activations.argmax(1)}

    found = map_rows(strongest, variables, data, ["x"])
    width = data.spec["x"].shape[1] - scan.shape[1] + 1
    motifs = []
    for n, most in enumerate(found["most"].T):
        rows = np.flatnonzero(most > STRONG * most.max())
        if len(rows) >= LEAST_WINDOWS:
            places = found["place"][rows, n, None] + np.arange(width)
            counts = (found["x"][rows[:, None], places][..., None] == np.arange(1, 5)).sum(0)
            known = counts.sum(1, keepdims=True)  # a place may be unknown, N, in every window
            pwm = np.where(known > 0, counts / known.clip(1), 1 / 4)
            motifs.append(Motif(f"filter {n}", pwm, len(rows)))
    return sorted(motifs, key=lambda motif: -motif.bits.sum())


def _scans(objective: Objective, variables: Variables, batch: Batch) -> list[Array]:
    """What `scan` gives to the predictions of a batch, (B, windows, filters), at each call."""
    outputs: list[Array] = []

    def record_output(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = next_call(*args, **kwargs)
        if context.method_name == "scan":
            outputs.append(out)
        return out

    if isinstance(objective, Predicts):
        with nn.intercept_methods(record_output):
            objective.predict(variables, batch)
    return outputs


def _scan_spec(objective: Objective, variables: Variables, spec: Batch) -> Array | None:
    """The shape of what `scan` gives for such a batch; None if no model does."""
    found = jax.eval_shape(partial(_scans, objective), variables, spec)
    return found[-1] if found else None


def information(pwm: np.ndarray, windows: int | None = None) -> np.ndarray:
    """The information in bits at each place of a PWM (L, 4), of at most 2: the height of a logo.

    2 minus the entropy; of a matrix that was counted in few windows, less the entropy's expected
    error (Schneider et al., 1986).
    """
    entropy = -(pwm * np.log2(np.where(pwm > 0, pwm, 1))).sum(1)
    error = 0 if windows is None else 3 / (2 * np.log(2) * windows)
    return (2 - entropy - error).clip(0)


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """The Pearson correlation of two PWMs (L, 4) in their best alignment.

    In an alignment the shorter one lies within the longer one.
    """
    short, long = sorted((one, other), key=len)
    windows = (long[n : n + len(short)] for n in range(len(long) - len(short) + 1))
    centered = short - short.mean()
    scores = [
        (centered * (window - window.mean())).sum()
        / max(np.linalg.norm(centered) * np.linalg.norm(window - window.mean()), 1e-12)
        for window in windows
    ]
    return float(max(scores))


def known_motifs_found(
    objective: Objective, variables: Variables, data: DatasetLoader[Any]
) -> dict[str, float]:
    """For each known motif of the data, its `similarity` to the most similar one that was found.

    For `Run(score=...)`. 0 where none was found.
    """
    found = found_motifs(objective, variables, data)
    return {
        name: max((similarity(pwm, motif.pwm) for motif in found), default=0.0)
        for name, pwm in _known(data).items()
    }


def draw_motifs(run: Run, variables: Variables, folder: Path) -> list[Path]:
    """Draws figures/motifs.png: sequence logos of the known motifs, then of those that were found.

    For a run of anything but DNA, of a model without a method `scan`, and where there is no motif,
    it draws nothing. Only the first process writes.
    """
    data, objective = run.test or run.valid, run.learner.objective
    if not isinstance(data, DatasetLoader) or not isinstance(data.dataset, DNA):
        return []
    if _scan_spec(objective, variables, data.spec) is None:
        return []
    found = found_motifs(objective, variables, data)
    if not found and not _known(data):
        return []
    path = folder / "figures" / "motifs.png"
    if processes.is_first():
        _draw(_known(data), found, len(data.dataset), path)
    return [path]


def _known(data: DatasetLoader[Any]) -> Mapping[str, np.ndarray]:
    return data.dataset.motifs if isinstance(data.dataset, DNA) else {}


def _draw(known: Mapping[str, np.ndarray], found: Sequence[Motif], rows: int, path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import (1 s)

    logos = [(f"known: {name}", pwm, information(pwm)) for name, pwm in known.items()]
    for motif in _most_similar_first(known, found)[: max(LOGOS - len(logos), COLUMNS)]:
        title = f"{motif.name}, in {motif.windows / rows:.0%} of the rows"
        if known:
            name = max(known, key=lambda name: similarity(known[name], motif.pwm))
            title += f"\n{name}, r = {similarity(known[name], motif.pwm):.2f}"
        logos.append((title, motif.pwm, motif.bits))
    lines = -(-len(logos) // COLUMNS)
    figure = Figure(figsize=(9.6, 1.7 * lines), layout="constrained")
    places = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axes in places[len(logos) :]:
        axes.set_axis_off()
    for axes, (title, pwm, bits) in zip(places, logos, strict=False):
        draw_logo(axes, pwm, bits)
        axes.set_title(title, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _most_similar_first(known: Mapping[str, np.ndarray], found: Sequence[Motif]) -> list[Motif]:
    """The motif that is most similar to each known one, then the others in their order."""
    if not found:
        return []
    best = [max(found, key=lambda motif: similarity(pwm, motif.pwm)) for pwm in known.values()]
    return list({motif.name: motif for motif in (*best, *found)}.values())


def draw_logo(axes: Any, pwm: np.ndarray, bits: np.ndarray) -> None:
    """A sequence logo (Schneider and Stephens, 1990): letters whose heights are their information.

    At each place of the matrix (L, 4) stand the four letters, the most frequent one on top, and
    share the height of `bits` (L,) by their frequency.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    font = FontProperties(family="DejaVu Sans", weight="bold")
    letters = {base: TextPath((0, 0), base, size=1, prop=font) for base in BASES}
    for place, (shares, total) in enumerate(zip(pwm, bits, strict=True)):
        bottom = 0.0
        for n in np.argsort(shares, kind="stable"):
            letter, height = letters[BASES[n]], float(shares[n] * total)
            box = letter.get_extents()
            stretch = (
                Affine2D().translate(-box.x0, -box.y0).scale(0.9 / box.width, height / box.height)
            )
            moved = stretch.translate(place + 0.55, bottom)
            if height > LEAST_HEIGHT:
                axes.add_artist(
                    PathPatch(moved.transform_path(letter), color=COLORS[BASES[n]], lw=0)
                )
            bottom += height
    axes.set_xlim(0.5, len(pwm) + 0.5)
    axes.set_ylim(0, 2)
    axes.set_ylabel("bits", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
