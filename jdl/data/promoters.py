"""Promoters: DNA made by a stated grammar of two motifs, beside sequences that break it."""

from __future__ import annotations

import numpy as np

from jdl.data.fasta import BASES, DNA, dna
from jdl.data.scenes import raw_draws, within
from jdl.types import Error

LENGTH, BOX = 200, 6  # bases of a sequence, and of a box
FIRST, SECOND = "box_35", "box_10"  # named after their distance from where transcription begins
CONSENSUS = {FIRST: "TTGACA", SECOND: "TATAAT"}
CONSERVED = {  # how often the base of the consensus stands there; the other three are equally often
    FIRST: (0.98, 0.98, 0.97, 0.96, 0.94, 0.93),
    SECOND: (0.98, 0.99, 0.95, 0.96, 0.95, 0.99),
}
SPACERS = (15, 16, 17, 18, 19)  # bases between the boxes
WRONG_SPACERS = (7, 8, 9, 10, 11, 23, 24, 25, 26, 27)
LAST = LENGTH - 2 * BOX - max(WRONG_SPACERS)  # place of the first box
GC = (0.4, 0.6)  # share of G and C in the background of a sequence
KINDS = ("promoter", "no box", "no second box", "no first box", "wrong spacer")
MISSING = {FIRST: (1, 3), SECOND: (1, 2)}  # in which kinds
LABELS = ("background", "promoter")
DRAWS = 4 + 2 * BOX  # of a sequence, and one for each of its bases


def _motif(name: str) -> np.ndarray:
    """The probabilities (6, 4) of the bases in a box."""
    conserved = np.asarray(CONSERVED[name], np.float32)[:, None]
    own = np.asarray([[base == letter for base in BASES] for letter in CONSENSUS[name]])
    return np.where(own, conserved, (1 - conserved) / 3)


MOTIFS = {name: _motif(name) for name in CONSENSUS}


def promoters(train: int = 20_000, test: int = 2_000, seed: int = 0) -> tuple[DNA, DNA]:
    """Bacterial promoters, made by a grammar, and sequences that break it: (train, test).

    Half of the sequences are promoters: 200 bases with a box TTGACA, 15 to 19 bases, and a box
    TATAAT, at any place. A base of a box is that of the consensus with a probability of 0.93 to
    0.99, by its place (`CONSERVED`), and else one of the other three. The others have, equally
    often, neither box, the first or the second one alone, or both with 7 to 11 or 23 to 27 bases
    between them. The bases of a missing box are scattered among the others, so that all kinds have
    the same composition. The bases around are drawn one by one; in a sequence 40 to 60% of them are
    G or C. The boxes are those of E. coli; real promoters are less alike, and have more parts.

    Columns: x (200,), the bases A, C, G, T as 1 to 4; `length`, always 200; y, 1 for a promoter;
    `kind`, the index in `KINDS`; and `place`, where the first box begins. Sequence i is a function
    of (seed, i) alone: with more sequences the first ones stay the same.
    """
    if min(train, test) < 1:
        raise Error(f"promoters takes numbers of sequences, at least 1, not {train} and {test}.")
    return _part("train", train, seed), _part("test", test, seed)


def _part(name: str, rows: int, seed: int) -> DNA:
    draws = raw_draws(rows, DRAWS + LENGTH, seed, f"promoters {name}")
    choices = draws[:, :4].astype(np.int64) & 0xFFFF
    number = choices[:, 0] % 8  # from 0 to 3 a promoter
    kind = np.where(number < 4, 0, number - 3)
    wrong = np.asarray(WRONG_SPACERS)[choices[:, 1] % len(WRONG_SPACERS)]
    spacer = np.where(kind == 4, wrong, np.asarray(SPACERS)[choices[:, 1] % len(SPACERS)])
    place = choices[:, 2] % (LAST + 1)
    starts = np.stack([place, place + BOX + spacer], 1)
    x = _background(draws[:, DRAWS:], within({"gc": GC}, draws[:, 3:4])["gc"])
    scattered = _beside_boxes(draws[:, DRAWS:], starts)
    for n, (box, missing) in enumerate(MISSING.items()):
        together = starts[:, n, None] + np.arange(BOX)
        at = np.where(np.isin(kind, missing)[:, None], scattered[:, n], together)
        letters = _box(box, draws[:, 4 + n * BOX :][:, :BOX])
        x[np.arange(rows)[:, None], at] = letters
    columns = {"y": kind == 0, "kind": kind, "place": place}
    return dna(x + 1, np.full(rows, LENGTH), LABELS, **columns).with_motifs(**MOTIFS)


def _background(draws: np.ndarray, gc: np.ndarray) -> np.ndarray:
    """Bases (rows, LENGTH) from 0 to 3, of which a share `gc` (rows,) is C or G."""
    uniform = within({"base": (0.0, 1.0)}, draws[..., None])["base"]
    either = (draws & np.uint64(1)).astype(np.int32)
    return np.where(uniform < gc[:, None], 1 + either, 3 * either)


def _beside_boxes(draws: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Places (rows, 2, BOX) that differ, drawn from all but those of the boxes."""
    places = np.arange(LENGTH)[None, None]
    in_box = ((places >= starts[..., None]) & (places < starts[..., None] + BOX)).any(1)
    order = np.where(in_box, np.iinfo(np.int64).max, draws.astype(np.int64) >> 1 & 0xFFFFFF)
    return np.argsort(order, axis=1, kind="stable")[:, : 2 * BOX].reshape(-1, 2, BOX)


def _box(name: str, draws: np.ndarray) -> np.ndarray:
    """Bases (rows, BOX) from 0 to 3 of a box."""
    uniform = within({"base": (0.0, 1.0)}, draws[..., None])["base"]
    thresholds = np.cumsum(MOTIFS[name], 1, dtype=np.float32)[:, :-1]
    return (uniform[..., None] >= thresholds).sum(-1).astype(np.int32)
