"""Scenes of garments on a woven canvas: semantic segmentation, made from Fashion-MNIST."""

from __future__ import annotations

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.scenes import Ranges, between, of_parts, raw_draws, within
from jdl.data.tfds_records import tfds

SIZE, MOST = 96, 8  # pixels a side of a scene, garments
SIDE = 28  # pixels of a garment's own image
MIDDLE = np.float32((SIDE + 1) / 2)  # of that image with a border of a pixel
PATCH = 56  # pixels a side that a garment is drawn in; at most the tip of a corner lies outside
SEEN = 25  # of 255: brighter pixels of a garment's own image belong to it
CHUNK = 32  # scenes that are drawn at a time: they fit into a cache

SCENE: Ranges = {  # what scenes differ in
    "canvas": (0.15, 0.45),  # how bright it is
    "change": (-0.15, 0.15),  # of the canvas, from the left to the right
    "turn": (-1.0, 1.0),  # of the weave: see `rotation`
    "warp": (0.0, 0.2),  # contrast of the threads one way, and across
    "weft": (0.0, 0.2),
    "warp_period": (3.0, 9.0),  # pixels
    "weft_period": (3.0, 9.0),
    "noise": (0.0, 0.08),
}
GARMENT: Ranges = {  # and the garments of a scene
    "down": (14.0, 82.0),  # of its center, in pixels
    "right": (14.0, 82.0),
    "scale": (0.9, 1.4),  # pixels per pixel of its own image
    "turn": (-0.25, 0.25),  # up to 28 degrees: see `rotation`
    "light": (0.75, 1.0),
}
SCENE_DRAWS = 1 + len(SCENE)  # the number of garments, and the above
GARMENT_DRAWS = 1 + len(GARMENT)  # which garment, and the above
NOISE = SIZE * SIZE // 8  # draws, of 8 bytes each


def garment_scenes(train: int = 6_000, test: int = 1_000, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Scenes of 1 to 8 real garments that overlap, for semantic segmentation: (train, test).

    Columns: x (96, 96, 1) of bytes, and y (96, 96), the class of each pixel: 0 is the background,
    a textured canvas, and 1 to 10 are the classes of Fashion-MNIST (Xiao et al., 2017), which must
    be prepared: `jdl data prepare fashion_mnist`. The garment on top counts, where its image is
    brighter than a tenth. Scenes to train on show training garments alone, those to test on test
    garments. They are enlarged by 0.9 to 1.4 and turned by up to 28 degrees. Scene i is a function
    of (seed, i) alone: with more scenes the first ones stay the same. They are made at 500 a
    second (a core of an AMD EPYC).
    """
    return of_parts("garment_scenes", lambda: tfds("fashion_mnist"), _scenes, train, test, seed)


def _scenes(part: Dataset, rows: int, seed: int, name: str) -> Dataset:
    garments, classes = part.columns["x"][..., 0], part.columns["y"]
    count = SCENE_DRAWS + MOST * GARMENT_DRAWS + NOISE
    draws = raw_draws(rows, count, seed, f"garments {name}")
    x = np.zeros((rows, SIZE, SIZE, 1), np.uint8)
    y = np.zeros((rows, SIZE, SIZE), np.int32)
    for n in range(0, rows, CHUNK):
        chunk = slice(n, n + CHUNK)
        x[chunk, ..., 0], y[chunk] = _draw(garments, classes, draws[chunk])
    return arrays(("background", *part.labels), x=x, y=y)


def _draw(
    garments: np.ndarray, classes: np.ndarray, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The scenes' pixels and their classes, (n, SIZE, SIZE) each.

    By sums, products and quotients of single numbers alone, whose bits are the same everywhere.
    """
    scene = within(SCENE, draws[:, 1:SCENE_DRAWS])
    of_garments = draws[:, SCENE_DRAWS:-NOISE].reshape(-1, MOST, GARMENT_DRAWS)
    garment = within(GARMENT, of_garments[..., 1:])
    which = (of_garments[..., 0] % np.uint64(len(garments))).astype(int)
    counts = 1 + (draws[:, 0] % np.uint64(MOST)).astype(int)
    border = ((0, 0), (PATCH // 2, PATCH // 2), (PATCH // 2, PATCH // 2))
    pixels = np.pad(woven_canvas(scene), border)
    labels = np.zeros(pixels.shape, np.int32)
    for n in range(MOST):
        rows = np.flatnonzero(counts > n)
        place = {name: values[rows, n, None, None] for name, values in garment.items()}
        top, left = np.floor(place["down"]).astype(int), np.floor(place["right"]).astype(int)
        steps = np.arange(PATCH)
        at = rows[:, None, None], top + steps[:, None], left + steps
        seen = garment_pixels(garments[which[rows, n]], place, top, left)
        covered = seen > SEEN
        pixels[at] = np.where(covered, seen * np.float32(1 / 255) * place["light"], pixels[at])
        labels[at] = np.where(covered, 1 + classes[which[rows, n], None, None], labels[at])
    inside = slice(PATCH // 2, -(PATCH // 2))
    return with_noise(pixels[:, inside, inside], scene, draws), labels[:, inside, inside]


def with_noise(pixels: np.ndarray, scene: dict[str, np.ndarray], draws: np.ndarray) -> np.ndarray:
    """Pixels (n, SIZE, SIZE) with noise of the last NOISE draws of each scene, as bytes."""
    grain = draws[:, -NOISE:].astype("<u8").view(np.uint8).reshape(-1, SIZE, SIZE)
    noise = scene["noise"][:, None, None] * (grain.astype(np.float32) / np.float32(127.5) - 1)
    return np.rint(255 * (pixels + noise).clip(0, 1)).astype(np.uint8)


def woven_canvas(scene: dict[str, np.ndarray]) -> np.ndarray:
    """Woven canvases (n, SIZE, SIZE): two sets of threads that cross at a right angle."""
    numbers = {name: values[:, None, None] for name, values in scene.items()}
    cosine, sine = rotation(numbers["turn"])
    down, right = np.arange(SIZE, dtype=np.float32)[:, None], np.arange(SIZE, dtype=np.float32)
    canvas = numbers["canvas"] + numbers["change"] * (right / SIZE - np.float32(0.5))
    for thread, along in (
        ("warp", cosine * right + sine * down),
        ("weft", cosine * down - sine * right),
    ):
        places = along / numbers[f"{thread}_period"]
        wave = abs(places - np.floor(places) - np.float32(0.5))  # from 0 to 1/2, a triangle
        canvas = canvas + numbers[thread] * (2 * wave - np.float32(0.5))
    return canvas


def garment_pixels(
    images: np.ndarray,
    place: dict[str, np.ndarray],
    top: np.ndarray,
    left: np.ndarray,
    patch: int = PATCH,
) -> np.ndarray:
    """Garments (n, SIDE, SIDE) turned and enlarged by bilinear interpolation: (n, patch, patch)."""
    images = np.pad(images, ((0, 0), (1, 1), (1, 1))).astype(np.float32)
    steps = np.arange(patch, dtype=np.float32) - patch // 2
    down = top.astype(np.float32) + steps[:, None] - place["down"]
    right = left.astype(np.float32) + steps - place["right"]
    cosine, sine = rotation(place["turn"])
    row, row_share = between((cosine * down + sine * right) / place["scale"] + MIDDLE, SIDE + 1)
    column, column_share = between(
        (cosine * right - sine * down) / place["scale"] + MIDDLE, SIDE + 1
    )
    n = np.arange(len(images))[:, None, None]
    above, below = (
        images[n, r, column] * (1 - column_share) + images[n, r, column + 1] * column_share
        for r in (row, row + 1)
    )
    return above * (1 - row_share) + below * row_share


def rotation(turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cosine and sine of an angle, of the tangent of its half: without a function of libm."""
    square = turn * turn
    return (1 - square) / (1 + square), 2 * turn / (1 + square)
