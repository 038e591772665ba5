"""Lines of handwritten digits: text recognition (OCR), made from scikit-learn's digits."""

from __future__ import annotations

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.scenes import of_digits, raw_draws

HEIGHT, WIDTH = 24, 212  # of the images, in pixels: the widest line fits
LEAST, MOST = 3, 12  # digits of a line
ADVANCE = 6  # from one digit to the next, in pixels of the digits' own images, of 8 by 8
PATCH = 32  # pixels beside which a digit has no ink, also slanted
NOISE = HEIGHT * WIDTH // 8  # draws of 8 bytes each
OF_LINE, OF_DIGIT = 10, 5  # draws
CHUNK = 64  # lines that are drawn at a time: they fit into a cache

# Ranges of a line: pixels per pixel of a digit's image, pixels to the right per pixel upwards,
# pixels between digits, pixels downwards, strokes' strength, darkness of the ink, brightness of the
# paper and its change to the right, noise, pixels of margin.
LINE_RANGES = (
    (1.6, 2.0),
    (-0.3, 0.3),
    (-0.5, 1.5),
    (-1.5, 1.5),
    (0.9, 1.6),
    (0.5, 1.0),
    (0.6, 1.0),
    (-0.15, 0.15),
    (0.0, 0.15),
    (4.0, 8.0),
)
# Of a digit, on top of the line's: scale, pixels after it, pixels downwards, darkness.
DIGIT_RANGES = ((0.9, 1.1), (0.0, 1.5), (-1.0, 1.0), (0.8, 1.0))


def digit_lines(train: int = 20_000, test: int = 2_000, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Lines of 3 to 12 real digits, for optical character recognition (OCR): (train, test).

    Columns: x (24, 212, 1) of bytes, dark ink on light paper; `width`, the pixels of the line, to
    the right of which x is 0; y (12,), the digits as indices of `labels`, padded with 0, which is
    CTC's blank; and `y_length`, their number. The digits are those of `jdl.data.digits()`: training
    lines have its training digits alone, test lines its test digits. Lines differ in slant, size,
    spacing, strokes, contrast and noise. Line i is a function of (seed, i) alone: with more lines
    the first ones stay the same. They are made at 2,600 a second (2 cores of an AMD EPYC).
    """
    return of_digits("digit_lines", _lines, train, test, seed)


def _lines(part: Dataset, rows: int, seed: int, name: str) -> Dataset:
    images = np.pad(part.columns["x"][..., 0], ((0, 0), (1, 1), (1, 1)))
    draws = raw_draws(rows, 1 + OF_LINE + MOST * OF_DIGIT + NOISE, seed, f"lines {name}")
    counts = LEAST + (draws[:, 0] % (MOST - LEAST + 1)).astype(np.int32)
    chosen = (draws[:, 1 + OF_LINE :: OF_DIGIT][:, :MOST] % len(images)).astype(np.int32)
    x = np.zeros((rows, HEIGHT, WIDTH, 1), np.uint8)
    widths = np.zeros(rows, np.int32)
    for n in range(0, rows, CHUNK):
        chunk = slice(n, n + CHUNK)
        x[chunk, ..., 0], widths[chunk] = _draw(images, draws[chunk], counts[chunk], chosen[chunk])
    real = np.arange(MOST) < counts[:, None]
    y = np.where(real, 1 + part.columns["y"][chosen], 0)
    return arrays(("", *part.labels), x=x, width=widths, y=y, y_length=counts)


def _draw(
    images: np.ndarray, draws: np.ndarray, counts: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The lines' pixels (n, HEIGHT, WIDTH), and their widths.

    By sums, products and quotients of single numbers alone, whose bits are the same everywhere.
    """
    uniforms = (draws[:, 1:-NOISE] >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    line = [low + (high - low) * uniforms[:, k] for k, (low, high) in enumerate(LINE_RANGES)]
    scale, slant, gap, down, strokes, ink, paper, change, noise, margin = line
    own = uniforms[:, OF_LINE:].reshape(len(draws), MOST, OF_DIGIT)[..., 1:]
    of_digit = [low + (high - low) * own[..., k] for k, (low, high) in enumerate(DIGIT_RANGES)]
    scales = scale[:, None] * of_digit[0]
    advances = ADVANCE * scales + gap[:, None] + of_digit[1]
    ends = margin[:, None] + np.cumsum(advances, axis=1)
    centers = ends - advances / 2
    downs = HEIGHT / 2 - 0.5 + down[:, None] + of_digit[2]
    darkness = np.zeros((len(draws), HEIGHT, WIDTH + 2 * PATCH), np.float32)
    for n in range(MOST):
        rows = np.flatnonzero(counts > n)
        left = np.floor(centers[rows, n]).astype(int) - PATCH // 2
        strength = _digit(
            images[chosen[rows, n]],
            scales[rows, n],
            slant[rows],
            centers[rows, n] - left.astype(np.float32),
            downs[rows, n],
        )
        strength = (strength * strokes[rows, None, None]).clip(max=1)
        strength *= (ink[rows] * of_digit[3][rows, n])[:, None, None]
        at = (
            rows[:, None, None],
            np.arange(HEIGHT)[:, None],
            (left + PATCH)[:, None, None] + np.arange(PATCH),
        )
        darkness[at] = np.maximum(darkness[at], strength)
    widths = np.ceil(ends[np.arange(len(draws)), counts - 1] + margin).astype(np.int32)
    columns = np.arange(WIDTH, dtype=np.float32)
    light = paper[:, None] + change[:, None] * (columns / WIDTH - 0.5)
    grain = draws[:, -NOISE:].astype("<u8").view(np.uint8).reshape(-1, HEIGHT, WIDTH)
    grain = grain.astype(np.float32) / 127.5 - 1
    pixels = light[:, None] * (1 - darkness[..., PATCH:-PATCH]) + noise[:, None, None] * grain
    real = columns < widths[:, None]
    return np.where(real[:, None], np.rint(255 * pixels.clip(0, 1)), 0).astype(np.uint8), widths


def _digit(
    images: np.ndarray,
    scale: np.ndarray,
    slant: np.ndarray,
    center: np.ndarray,
    down: np.ndarray,
) -> np.ndarray:
    """Digits (n, 10, 10), enlarged and slanted by bilinear interpolation: (n, HEIGHT, PATCH)."""
    below = np.arange(HEIGHT, dtype=np.float32) - down[:, None]
    row, share = _between((below / scale[:, None])[..., None] + 4.5)
    rows = np.take_along_axis(images, row, 1) * (1 - share)
    rows += np.take_along_axis(images, row + 1, 1) * share
    right = np.arange(PATCH, dtype=np.float32) - center[:, None]
    right = right[:, None] + (slant[:, None] * below)[..., None]
    column, share = _between(right / scale[:, None, None] + 4.5)
    left = np.take_along_axis(rows, column, 2) * (1 - share)
    return left + np.take_along_axis(rows, column + 1, 2) * share


def _between(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixel before a place in a digit's image, and the share of the one after it."""
    place = place.clip(0, 9)
    before = np.minimum(np.floor(place), 8)
    return before.astype(int), place - before
