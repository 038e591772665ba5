"""Lines of handwritten digits: text recognition (OCR), made from scikit-learn's digits."""

from __future__ import annotations

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.scenes import Ranges, between, of_digits, raw_draws, within

HEIGHT, WIDTH = 24, 212  # of the images, in pixels: the widest line fits
LEAST, MOST = 3, 12  # digits of a line
ADVANCE = 6  # from one digit to the next, in pixels of the digits' own images, of 8 by 8
PATCH = 32  # pixels beside which a digit has no ink, also slanted
CHUNK = 64  # lines that are drawn at a time: they fit into a cache

LINE: Ranges = {  # what lines differ in
    "scale": (1.6, 2.0),  # pixels per pixel of a digit's own image
    "slant": (-0.3, 0.3),  # pixels to the right per pixel upwards
    "gap": (-0.5, 1.5),  # pixels between digits
    "down": (-1.5, 1.5),  # pixels below the middle
    "strokes": (0.9, 1.6),  # contrast of the strokes' edges
    "ink": (0.5, 1.0),  # how dark it is
    "paper": (0.6, 1.0),  # how bright it is
    "change": (-0.15, 0.15),  # of the paper, from the left to the right
    "noise": (0.0, 0.15),
    "margin": (4.0, 8.0),  # pixels to the left and to the right
}
DIGIT: Ranges = {  # and the digits of a line
    "scale": (0.9, 1.1),  # times that of the line
    "gap": (0.0, 1.5),  # more than that of the line
    "down": (-1.0, 1.0),
    "ink": (0.8, 1.0),
}
NOISE = HEIGHT * WIDTH // 8  # draws, of 8 bytes each
LINE_DRAWS = 1 + len(LINE)  # the number of digits, and the above
DIGIT_DRAWS = 1 + len(DIGIT)  # which digit, and the above


def digit_lines(train: int = 20_000, test: int = 2_000, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Lines of 3 to 12 real digits, for optical character recognition (OCR): (train, test).

    Columns: x (24, 212, 1) of bytes, dark ink on light paper; `width`, the pixels of the line, to
    the right of which x is 0; y (12,), the digits as indices of `labels`, padded with 0, which is
    CTC's blank; and `y_length`, their number. The digits are those of `jdl.data.digits()`: training
    lines have its training digits alone, test lines its test digits. Lines differ in slant, size,
    spacing, strokes, contrast and noise. Line i is a function of (seed, i) alone: with more lines
    the first ones stay the same. They are made at 1,500 a second (a core of an AMD EPYC).
    """
    return of_digits("digit_lines", _lines, train, test, seed)


def _lines(part: Dataset, rows: int, seed: int, name: str) -> Dataset:
    images = np.pad(part.columns["x"][..., 0], ((0, 0), (1, 1), (1, 1)))
    count = LINE_DRAWS + MOST * DIGIT_DRAWS + NOISE
    draws = raw_draws(rows, count, seed, f"lines {name}")
    lengths = LEAST + (draws[:, 0] % (MOST - LEAST + 1)).astype(np.int32)
    which = draws[:, LINE_DRAWS:-NOISE:DIGIT_DRAWS] % len(images)
    x = np.zeros((rows, HEIGHT, WIDTH, 1), np.uint8)
    widths = np.zeros(rows, np.int32)
    for n in range(0, rows, CHUNK):
        chunk = slice(n, n + CHUNK)
        drawn = _draw(images, draws[chunk], lengths[chunk], which[chunk])
        x[chunk, ..., 0], widths[chunk] = drawn
    y = np.where(np.arange(MOST) < lengths[:, None], 1 + part.columns["y"][which], 0)
    return arrays(("", *part.labels), x=x, width=widths, y=y, y_length=lengths)


def _draw(
    images: np.ndarray, draws: np.ndarray, lengths: np.ndarray, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The lines' pixels (n, HEIGHT, WIDTH), and their widths.

    By sums, products and quotients of single numbers alone, whose bits are the same everywhere.
    """
    line = within(LINE, draws[:, 1:LINE_DRAWS])
    digit = within(DIGIT, draws[:, LINE_DRAWS:-NOISE].reshape(-1, MOST, DIGIT_DRAWS)[..., 1:])
    scales = line["scale"][:, None] * digit["scale"]
    advances = ADVANCE * scales + line["gap"][:, None] + digit["gap"]
    ends = line["margin"][:, None] + np.cumsum(advances, axis=1)
    centers = ends - advances / 2
    downs = HEIGHT / 2 - 0.5 + line["down"][:, None] + digit["down"]
    inks = line["ink"][:, None] * digit["ink"]
    darkness = np.zeros((len(draws), HEIGHT, WIDTH + 2 * PATCH), np.float32)
    for n in range(MOST):
        rows = np.flatnonzero(lengths > n)
        left = np.floor(centers[rows, n]).astype(int) - PATCH // 2
        center = centers[rows, n] - left.astype(np.float32)
        place = scales[rows, n], line["slant"][rows], center, downs[rows, n]
        ink = _digit(images[which[rows, n]], *place) * line["strokes"][rows, None, None]
        at = (
            rows[:, None, None],
            np.arange(HEIGHT)[:, None],
            (left + PATCH)[:, None, None] + np.arange(PATCH),
        )
        darkness[at] = np.maximum(darkness[at], ink.clip(max=1) * inks[rows, n, None, None])
    last = ends[np.arange(len(draws)), lengths - 1]
    widths = np.ceil(last + line["margin"]).astype(np.int32)
    columns = np.arange(WIDTH, dtype=np.float32)
    paper = line["paper"][:, None] + line["change"][:, None] * (columns / WIDTH - 0.5)
    grain = draws[:, -NOISE:].astype("<u8").view(np.uint8).reshape(-1, HEIGHT, WIDTH)
    noise = line["noise"][:, None, None] * (grain.astype(np.float32) / 127.5 - 1)
    pixels = paper[:, None] * (1 - darkness[..., PATCH:-PATCH]) + noise
    real = (columns < widths[:, None])[:, None]
    return np.where(real, np.rint(255 * pixels.clip(0, 1)), 0).astype(np.uint8), widths


def _digit(
    images: np.ndarray,
    scale: np.ndarray,
    slant: np.ndarray,
    center: np.ndarray,
    down: np.ndarray,
) -> np.ndarray:
    """Digits (n, 10, 10), enlarged and slanted by bilinear interpolation: (n, HEIGHT, PATCH)."""
    below = np.arange(HEIGHT, dtype=np.float32) - down[:, None]
    row, share = between((below / scale[:, None])[..., None] + 4.5, 9)
    rows = np.take_along_axis(images, row, 1) * (1 - share)
    rows += np.take_along_axis(images, row + 1, 1) * share
    right = np.arange(PATCH, dtype=np.float32) - center[:, None]
    right = right[:, None] + (slant[:, None] * below)[..., None]
    column, share = between(right / scale[:, None, None] + 4.5, 9)
    left = np.take_along_axis(rows, column, 2) * (1 - share)
    return left + np.take_along_axis(rows, column + 1, 2) * share
