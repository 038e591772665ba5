"""Scenes of handwritten digits with boxes: object detection, made from scikit-learn's digits."""

from __future__ import annotations

import numpy as np

from jdl.boxes import area, intersection
from jdl.data.dataset import Dataset, arrays
from jdl.data.scenes import Ranges, between, of_digits, raw_draws, within

SIDE = 128  # of the images, in pixels
MOST = 10  # digits of a scene
TRIES = 3  # places that are tried for a digit; it is left out where all are taken
OVERLAP = 0.15  # of a digit's box, at most, is covered by that of another one
INK = 0.25  # a digit's box holds its rows and columns with such a dark pixel
PATCH = 56  # pixels beside which no digit and no distractor has ink
MARGIN = 6  # pixels of it before a digit, whose own image has up to 40 and fades at its edge
CLUTTER = 8  # distractors of a scene, at most
CHUNK = 32  # scenes that are drawn at a time: they fit into a cache

SCENE: Ranges = {  # what scenes differ in
    "paper": (0.6, 1.0),  # how bright it is
    "down": (-0.3, 0.3),  # change of the paper, from the top to the bottom
    "right": (-0.3, 0.3),
    "noise": (0.0, 0.15),
}
DIGIT: Ranges = {  # and the digits of a scene
    "size": (14.0, 40.0),  # the longer side of its box, in pixels
    "strokes": (0.9, 1.6),  # contrast of the strokes' edges
    "ink": (0.5, 1.0),  # how dark it is
}
PLACE: Ranges = {"left": (0.0, 1.0), "top": (0.0, 1.0)}  # of the space that there is
DISTRACTOR: Ranges = {  # a triangle of lines; a stroke, if two corners are one; or a blob
    "left": (0.0, float(SIDE)),  # of its middle
    "top": (0.0, float(SIDE)),
    "kind": (0.0, 3.0),  # 0: stroke, 1: triangle, 2: blob
    "width": (1.0, 3.0),  # of the lines; blobs are drawn with one that is 6 times as wide
    "ink": (0.3, 1.0),
    **{f"{axis}{corner}": (-20.0, 20.0) for corner in range(3) for axis in "xy"},
}
BLOB = 6  # times as wide as a line, and smaller by as much
NOISE = SIDE * SIDE // 8  # draws, of 8 bytes each
SCENE_DRAWS = 2 + len(SCENE)  # the numbers of digits and of distractors, and the above
DIGIT_DRAWS = 1 + len(DIGIT) + TRIES * len(PLACE)  # which digit, and the above


def digit_boxes(train: int = 8_000, test: int = 1_000, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Scenes of up to 10 real digits with their boxes, for object detection: (train, test).

    Columns: x (128, 128, 1) of bytes, dark ink on light paper; `boxes` (10, 4), the left, top,
    right and bottom edge (x0, y0, x1, y1) of each digit's ink in pixels; and y (10,), their labels,
    which are -1 where there is no further digit. The longer side of a box has 14 to 40 pixels;
    boxes overlap little. Strokes, triangles and blobs are distractors. The digits are those of
    `jdl.data.digits()`: training scenes have its training digits alone, test scenes its test
    digits. Scene i is a function of (seed, i) alone: with more scenes the first ones stay the same.
    They are made at 160 a second (a core of an AMD EPYC that had other work too).
    """
    return of_digits("digit_boxes", _scenes, train, test, seed)


def _scenes(part: Dataset, rows: int, seed: int, name: str) -> Dataset:
    images, labels = part.columns["x"][..., 0], part.columns["y"]
    ink, padded = _ink(images), np.pad(images, ((0, 0), (1, 1), (1, 1)))
    ends = np.cumsum([SCENE_DRAWS, MOST * DIGIT_DRAWS, CLUTTER * len(DISTRACTOR), NOISE])
    draws = raw_draws(rows, int(ends[-1]), seed, f"boxes {name}")
    x = np.zeros((rows, SIDE, SIDE, 1), np.uint8)
    boxes, y = np.zeros((rows, MOST, 4), np.float32), np.full((rows, MOST), -1, np.int32)
    for n in range(0, rows, CHUNK):
        chunk = slice(n, n + CHUNK)
        scene, digits, distractors, noise = np.split(draws[chunk], ends[:-1], axis=1)
        digits = digits.reshape(-1, MOST, DIGIT_DRAWS)
        which, digits = digits[..., 0] % len(images), digits[..., 1:]
        placed = _place(ink[which], scene[:, 0] % (MOST + 1), digits)
        darkness = np.zeros((len(scene), *[SIDE + 2 * PATCH] * 2), np.float32)
        _draw_distractors(darkness, scene[:, 1] % (CLUTTER + 1), distractors)
        for k in range(MOST):
            real = np.flatnonzero(area(placed[:, k]) > 0)
            images_k = padded[which[real, k]], ink[which[real, k]]
            _draw_digits(darkness, real, *images_k, placed[real, k], digits[real, k])
        x[chunk, ..., 0] = _pixels(darkness, scene[:, 2:], noise)
        order = np.argsort(area(placed) == 0, axis=1, kind="stable")
        boxes[chunk] = np.take_along_axis(placed, order[..., None], 1)
        ordered = np.take_along_axis(labels[which], order, 1)
        y[chunk] = np.where(area(boxes[chunk]) > 0, ordered, -1)
    return arrays(part.labels, x=x, boxes=boxes, y=y)


def _place(ink: np.ndarray, wanted: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The boxes (n, MOST, 4) of the digits that are wanted and found a place; zeros of others."""
    size = within(DIGIT, draws[..., : len(DIGIT)])["size"]
    tries = draws[..., len(DIGIT) :].reshape(*size.shape, TRIES, len(PLACE))
    sides = ink[..., 2:] - ink[..., :2]
    sides = sides * (size / sides.max(-1))[..., None]
    placed = np.zeros((*size.shape, 4), np.float32)
    free = np.arange(MOST) < wanted[:, None]
    for n, k in np.ndindex(MOST, TRIES):
        place = within(PLACE, tries[:, n, k])
        corner = np.stack([place["left"], place["top"]], -1) * (SIDE - sides[:, n])
        box = np.concatenate([corner, corner + sides[:, n]], -1)[:, None]
        smaller = np.minimum(area(box), area(placed))
        overlaps = intersection(box, placed) > OVERLAP * smaller
        fits = free[:, n] & ~overlaps.any(1)
        placed[fits, n] = box[fits, 0]
        free[fits, n] = False
    return placed


def _ink(images: np.ndarray) -> np.ndarray:
    """The box (N, 4) of the ink of each image of a digit."""
    dark = images >= INK
    lines = dark.max(1), dark.max(2)  # the columns and the rows with ink
    first = [line.argmax(1) for line in lines]
    last = [line.shape[1] - line[:, ::-1].argmax(1) for line in lines]
    return np.stack([*first, *last], -1).astype(np.float32)


def _draw_digits(
    darkness: np.ndarray,
    scenes: np.ndarray,
    images: np.ndarray,
    ink: np.ndarray,
    boxes: np.ndarray,
    draws: np.ndarray,
) -> None:
    """Draws a digit (n, 10, 10) into its box (n, 4) in each of the scenes, by interpolation.

    By sums, products and quotients of single numbers alone, whose bits are the same everywhere.
    """
    digit = within(DIGIT, draws[:, : len(DIGIT)])
    scale = (boxes[:, 3] - boxes[:, 1]) / (ink[:, 3] - ink[:, 1])
    corner = boxes[:, :2] - ink[:, :2] * scale[:, None]  # of the whole image of the digit
    first = np.floor(corner).astype(int) - MARGIN
    pixels = (first[..., None] + np.arange(PATCH)).astype(np.float32) + np.float32(0.5)
    place, share = between((pixels - corner[..., None]) / scale[:, None, None] + np.float32(0.5), 9)
    (columns, rows), (right, down) = np.moveaxis(place, 1, 0), np.moveaxis(share, 1, 0)
    rows, down = rows[..., None], down[..., None]
    lines = np.take_along_axis(images, rows, 1) * (1 - down)
    lines += np.take_along_axis(images, rows + 1, 1) * down
    columns, right = columns[:, None], right[:, None]
    dark = np.take_along_axis(lines, columns, 2) * (1 - right)
    dark += np.take_along_axis(lines, columns + 1, 2) * right
    dark = (dark * digit["strokes"][:, None, None]).clip(max=1) * digit["ink"][:, None, None]
    _darken(darkness, scenes, first, dark)


def _draw_distractors(darkness: np.ndarray, wanted: np.ndarray, draws: np.ndarray) -> None:
    """Draws what is no digit, by arithmetic of which the bits are the same everywhere too."""
    drawn = within(DISTRACTOR, draws.reshape(len(draws), CLUTTER, len(DISTRACTOR)))
    middle = np.stack([drawn["left"], drawn["top"]], -1)
    axes = [np.stack([drawn[f"{axis}{corner}"] for corner in range(3)], -1) for axis in "xy"]
    corners, kind = np.stack(axes, -1), np.floor(drawn["kind"])  # (n, CLUTTER, 3, 2)
    corners[..., 2, :] = np.where((kind == 1)[..., None], corners[..., 2, :], corners[..., 1, :])
    blob = np.where(kind == 2, np.float32(BLOB), np.float32(1))
    corners, width = corners / blob[..., None, None], drawn["width"] * blob
    for n in range(CLUTTER):
        scenes = np.flatnonzero(wanted > n)
        first = np.floor(middle[scenes, n]).astype(int) - PATCH // 2
        from_middle = first[..., None] + np.arange(PATCH) - middle[scenes, n, :, None]
        x, y = (
            from_middle[:, 0, None].astype(np.float32),
            from_middle[:, 1, :, None].astype(np.float32),
        )
        distance = np.full((len(scenes), PATCH, PATCH), np.inf, np.float32)
        for k in range(3):
            ends = corners[scenes, n, k], corners[scenes, n, (k + 1) % 3]
            distance = np.minimum(distance, _distance(x, y, *ends))
        dark = (width[scenes, n, None, None] / 2 + np.float32(0.5) - distance).clip(0, 1)
        _darken(darkness, scenes, first, dark * drawn["ink"][scenes, n, None, None])


def _distance(x: np.ndarray, y: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The distance (n, H, W) of pixels x (n, 1, W) and y (n, H, 1) from lines (n, 2) to (n, 2)."""
    (x0, y0), (x1, y1) = (point.T[..., None, None] for point in (start, end))
    along = (x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)
    square = (x1 - x0) * (x1 - x0) + (y1 - y0) * (y1 - y0)
    share = (along / np.maximum(square, np.float32(1e-6))).clip(0, 1)
    right, down = x - x0 - share * (x1 - x0), y - y0 - share * (y1 - y0)
    return np.sqrt(right * right + down * down)


def _darken(darkness: np.ndarray, scenes: np.ndarray, first: np.ndarray, dark: np.ndarray) -> None:
    """Makes patches (n, PATCH, PATCH), whose left and top pixels are `first`, as dark at least."""
    corner = (first + PATCH).clip(0, darkness.shape[1] - PATCH)[..., None] + np.arange(PATCH)
    at = scenes[:, None, None], corner[:, 1, :, None], corner[:, 0, None]
    darkness[at] = np.maximum(darkness[at], dark)


def _pixels(darkness: np.ndarray, draws: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The bytes (n, SIDE, SIDE): ink on paper, with noise."""
    scene = {name: value[:, None, None] for name, value in within(SCENE, draws).items()}
    share = np.arange(SIDE, dtype=np.float32) / SIDE - np.float32(0.5)
    paper = scene["paper"] + scene["down"] * share[:, None] + scene["right"] * share
    grain = noise.astype("<u8").view(np.uint8).reshape(-1, SIDE, SIDE).astype(np.float32)
    inside = slice(PATCH, PATCH + SIDE)
    pixels = paper * (1 - darkness[:, inside, inside]) + scene["noise"] * (grain / 127.5 - 1)
    return np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
