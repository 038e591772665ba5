"""Single garments on a woven canvas with keypoints: pose estimation, made from Fashion-MNIST."""

from __future__ import annotations

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.garments import (
    CHUNK,
    NOISE,
    SCENE,
    SEEN,
    SIDE,
    SIZE,
    garment_pixels,
    rotation,
    with_noise,
    woven_canvas,
)
from jdl.data.scenes import Ranges, of_parts, raw_draws, within
from jdl.data.tfds_records import tfds

KEYPOINTS = ("top left", "top right", "bottom right", "bottom left", "center")
UPRIGHT = (0, 1, 2, 4, 6, 7, 9)  # classes whose orientation is recognizable
QUARTERS = 4  # turns by a right angle

GARMENT: Ranges = {  # what garments differ in
    "down": (26.0, 70.0),  # of its image's center, in pixels
    "right": (26.0, 70.0),
    "scale": (1.2, 2.2),  # pixels per pixel of its own image
    "turn": (-0.41421356, 0.41421356),  # up to 45 degrees, besides right angles: see `rotation`
    "light": (0.75, 1.0),
}
OF_SCENE = slice(2, 2 + len(SCENE))  # draws, after those of which garment and of right angles
OF_GARMENT = slice(OF_SCENE.stop, OF_SCENE.stop + len(GARMENT))


def garment_keypoints(
    train: int = 12_000, test: int = 1_000, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """Real garments, turned to any angle, with keypoints, for pose estimation: (train, test).

    Columns: x (96, 96, 1) of bytes, one garment on a textured canvas; `keypoints` (5, 3), the
    corners of the garment's own box and its center, x and y in pixels and 2; where one is out of
    the image, three zeros: it is not known; and `size`, the longer side of the box in pixels.
    `labels` are their names. The corners are named in the garment's own frame: the top left one is
    at the left of its collar, waist or shaft, however it is turned. So the model must see which way
    up it is: the classes are T-shirts, trousers, pullovers, coats, shirts, sneakers and ankle
    boots, and not dresses, sandals and bags, of which that is often not to be seen.

    The garments are those of Fashion-MNIST (Xiao et al., 2017), which must be prepared:
    `jdl data prepare fashion_mnist`. Images to train on show training garments alone, those to test
    on test garments. They are enlarged by 1.2 to 2.2 and not mirrored. Image i is a function of
    (seed, i) alone: with more images the first ones stay the same.
    """
    return of_parts("garment_keypoints", lambda: tfds("fashion_mnist"), _scenes, train, test, seed)


def _scenes(part: Dataset, rows: int, seed: int, name: str) -> Dataset:
    garments = part.columns["x"][np.isin(part.columns["y"], UPRIGHT), ..., 0]
    boxes = _own_boxes(garments)
    draws = raw_draws(rows, OF_GARMENT.stop + NOISE, seed, f"keypoints {name}")
    which = (draws[:, 0] % np.uint64(len(garments))).astype(int)
    quarters = (draws[:, 1] % np.uint64(QUARTERS)).astype(int)
    x = np.zeros((rows, SIZE, SIZE, 1), np.uint8)
    for n in range(0, rows, CHUNK):
        chunk = slice(n, n + CHUNK)
        x[chunk, ..., 0] = _draw(_turn(garments[which[chunk]], quarters[chunk]), draws[chunk])
    keypoints, size = _keypoints(boxes[which], quarters, within(GARMENT, draws[:, OF_GARMENT]))
    return arrays(KEYPOINTS, x=x, keypoints=keypoints, size=size)


def _own_boxes(garments: np.ndarray) -> np.ndarray:
    """The left, top, right and bottom edge of garments (n, SIDE, SIDE), from their middle."""
    seen = garments > SEEN
    columns, rows = np.asarray(seen.any(1)), np.asarray(seen.any(2))
    left, top = columns.argmax(1), rows.argmax(1)
    right, bottom = (SIDE - lines[:, ::-1].argmax(1) for lines in (columns, rows))
    return np.stack([left, top, right, bottom], -1).astype(np.float32) - np.float32(SIDE / 2)


def _turn(garments: np.ndarray, quarters: np.ndarray) -> np.ndarray:
    """Garments (n, SIDE, SIDE) turned counterclockwise by right angles."""
    turned = np.empty_like(garments)
    for n in range(QUARTERS):
        turned[quarters == n] = np.rot90(garments[quarters == n], n, (1, 2))
    return turned


def _draw(garments: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The images' pixels (n, SIZE, SIZE), bytes.

    By sums, products and quotients of single numbers alone, whose bits are the same everywhere.
    """
    scene, garment = within(SCENE, draws[:, OF_SCENE]), within(GARMENT, draws[:, OF_GARMENT])
    place = {name: values[:, None, None] for name, values in garment.items()}
    middle = np.full_like(place["down"], SIZE // 2)  # of a patch that is the whole image
    seen = garment_pixels(garments, place, middle, middle, SIZE)
    bright = seen * np.float32(1 / 255) * place["light"]
    pixels = np.where(seen > SEEN, bright, woven_canvas(scene))
    return with_noise(pixels, scene, draws)


def _keypoints(
    boxes: np.ndarray, quarters: np.ndarray, garment: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Corners and centers (n, 5, 3) of the garments' boxes, and the boxes' longer sides (n,)."""
    left, top, right, bottom = boxes.T
    points = np.stack([(left, top), (right, top), (right, bottom), (left, bottom)])  # (4, 2, n)
    points = np.concatenate([points, (points[:1] + points[2:3]) / 2])
    x, y = points[:, 0], points[:, 1]
    cosine, sine = np.asarray([(1, 0, -1, 0), (0, 1, 0, -1)], np.float32)[:, quarters]
    x, y = cosine * x + sine * y, cosine * y - sine * x
    cosine, sine = rotation(garment["turn"])
    x, y = cosine * x + sine * y, cosine * y - sine * x
    x = garment["scale"] * x + garment["right"] + np.float32(0.5)  # from pixels' middles to edges
    y = garment["scale"] * y + garment["down"] + np.float32(0.5)
    inside = (x >= 0) & (x <= SIZE) & (y >= 0) & (y <= SIZE)
    keypoints = np.stack([x, y, np.full_like(x, 2)], -1) * inside[..., None]
    size = garment["scale"] * np.maximum(right - left, bottom - top)
    return keypoints.swapaxes(0, 1).astype(np.float32), size.astype(np.float32)
