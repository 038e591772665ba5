"""Boxes move with the pixels of their objects.

Seen to fail: with rows for columns; with the map from after to before; with boxes that are not
clipped; with a label that stays for a box out of the image; with boxes without area that stay.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import jdl

SIDE = 64
MOVES = {
    "flip": jdl.data.random_flip(1.0),
    "upside-down": jdl.data.random_flip(1.0, vertical=True),
    "crop": jdl.data.random_crop(6),
    "affine": jdl.data.random_affine(shift=6, zoom=0.2),
    "resized": jdl.data.random_resized_crop(scale=(0.6, 1.0)),
}


def rectangles(count=16):
    """Bright rectangles in dark images, with their boxes, and room for one more."""
    rng = np.random.default_rng(0)
    x = np.zeros((count, SIDE, SIDE + 8, 1), np.float32)
    left, top = rng.integers(0, 40, (2, count))
    width, height = rng.integers(8, 20, (2, count))
    for n in range(count):
        x[n, top[n] : top[n] + height[n], left[n] : left[n] + width[n]] = 1
    boxes = np.stack([left, top, left + width, top + height], -1).astype(np.float32)
    boxes = np.stack([boxes, np.zeros_like(boxes)], 1)
    return jdl.data.arrays("0123", x=x, boxes=boxes, y=np.tile([3, -1], (count, 1)))


def bounds_of(image):
    """The box of what is bright."""
    rows, columns = (np.flatnonzero((image[..., 0] > 0.5).any(axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVES)
def test_boxes_move_with_their_objects(name):
    data = rectangles()
    batch = data.shuffled(len(data), 0, jdl.data.move_boxes(MOVES[name], visible=0.01))[0]
    alone = data.shuffled(len(data), 0, MOVES[name])[0]
    np.testing.assert_allclose(batch["x"], alone["x"], atol=1e-5)  # two programs: they round apart
    x, boxes, y = (np.asarray(batch[name]) for name in ("x", "boxes", "y"))
    found = np.array([bounds_of(image) for image in x])
    seen = y[:, 0] == 3
    assert seen.mean() > 0.9
    assert (boxes[:, 0] != np.asarray(data.columns["boxes"])[np.asarray(batch["id"]), 0]).any()
    np.testing.assert_allclose(boxes[seen, 0], found[seen], atol=0.51)
    assert (y[:, 1] == -1).all()
    assert (boxes[:, 1] == 0).all()


def test_a_turned_box_is_around_its_corners():
    """Turned to the left by a quarter, x is what y was, and y the way to the right edge."""
    x = np.zeros((4, 32, 48, 1), np.float32)
    boxes = np.tile(np.float32([[[4, 10, 8, 20]]]), (4, 1, 1))
    data = jdl.data.arrays("a", x=x, boxes=boxes, y=np.zeros((4, 1), int))

    def quarter(key, example):
        return {**example, "x": jnp.rot90(example["x"])}

    moved = data.shuffled(4, 0, jdl.data.move_boxes(quarter))[0]["boxes"]
    expected = np.tile(np.float32([[[10, 40, 20, 44]]]), (4, 1, 1))
    np.testing.assert_allclose(moved, expected, atol=1e-3)


@pytest.mark.parametrize(("visible", "stays"), [(0.4, True), (0.6, False)])
def test_a_box_that_is_mostly_out_of_the_image_loses_its_label(visible, stays):
    x = np.zeros((2, 16, 16, 1), np.float32)
    boxes = np.tile(np.float32([[[4, 4, 8, 8]]]), (2, 1, 1))
    data = jdl.data.arrays("a", x=x, boxes=boxes, y=np.zeros((2, 1), int))

    def lower_right(key, example):  # half of the box is left
        return {**example, "x": jnp.pad(example["x"][:, 6:], ((0, 0), (0, 6), (0, 0)))}

    batch = data.shuffled(2, 0, jdl.data.move_boxes(lower_right, visible))[0]
    expected = [0, 4, 2, 8] if stays else [0, 0, 0, 0]
    np.testing.assert_allclose(batch["boxes"][0, 0], expected, atol=1e-3)
    assert batch["y"].tolist() == [[0 if stays else -1]] * 2


def test_what_is_wrong_is_refused():
    with pytest.raises(jdl.Error, match="for transforms that move the pixels"):
        jdl.data.move_boxes(jdl.data.color_jitter(0.5))
    with pytest.raises(jdl.Error, match="above 0 and at most 1, not 0"):
        jdl.data.move_boxes(jdl.data.random_flip(), visible=0)
