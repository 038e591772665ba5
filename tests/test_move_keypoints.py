"""Keypoints move with the pixels of their object.

Seen to fail: about the wrong middle, without pairs, with pairs that change places without a mirror;
with a keypoint out of the image that stays known, with a size that is not the object's.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import jdl

HEIGHT, WIDTH = 48, 64
MOVES = {
    "flip": jdl.data.random_flip(1.0),
    "affine": jdl.data.random_affine(rotation=40, shift=6, zoom=0.2),
    "resized": jdl.data.random_resized_crop(scale=(0.7, 1.0)),
}


def dots(count=16):
    """Two squares of 3 x 3 pixels, a dim one and a bright one, whose middles are the keypoints."""
    rng = np.random.default_rng(0)
    x = np.zeros((count, HEIGHT, WIDTH, 1), np.float32)
    down, right = rng.integers(16, 32, (2, count, 2))
    right[:, 1] += 12
    for n in range(count):
        for k, light in enumerate((0.5, 1.0)):
            x[n, down[n, k] - 1 : down[n, k] + 2, right[n, k] - 1 : right[n, k] + 2] = light
    keypoints = np.stack([right + 0.5, down + 0.5, np.full_like(down, 2)], -1)
    keypoints = np.concatenate([keypoints, np.zeros((count, 1, 3))], 1)
    return jdl.data.arrays(x=x, keypoints=keypoints, size=np.full(count, 10.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVES)
def test_keypoints_move_with_their_object(name):
    """To where the pixels of their brightness are; in a mirror the two change places."""
    data = dots()
    move = jdl.data.move_keypoints(MOVES[name], pairs=[(0, 1)], size="size")
    batch = {k: np.asarray(v) for k, v in data.shuffled(len(data), 0, move)[0].items()}
    order = (1, 0) if name == "flip" else (0, 1)
    places = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1) + 0.5
    seen = batch["keypoints"][..., 2] == 2
    assert seen[:, :2].mean() > 0.8
    assert not batch["keypoints"][:, 2].any()
    for image, points, known in zip(batch["x"][..., 0], batch["keypoints"], seen, strict=True):
        for k in range(2):
            if known[k]:
                distance = np.linalg.norm(places - points[order[k], :2], axis=-1)
                near = np.where(distance < 4, image, 0)
                middle = (near[..., None] * places).sum((0, 1)) / near.sum()
                np.testing.assert_allclose(points[order[k], :2], middle, atol=0.3)
                assert near.max() > 0.55 if k else near.max() < 0.55
    assert (abs(batch["size"] - 10) > 0.1).any() == (name in ("affine", "resized"))


def test_what_is_moved_out_of_the_image_is_not_known():
    """And a quarter turn to the left, which is no mirror image, leaves all in their places."""
    keypoints = np.float32([[4, 10, 2], [30, 20, 1], [1, 1, 0]])
    x = np.zeros((1, 32, 48, 1), np.float32)
    data = jdl.data.arrays(x=x, keypoints=keypoints[None], size=np.full(1, 3.0))

    def half(key, example):  # the left half of a picture of twice the size
        return {**example, "x": jnp.repeat(jnp.repeat(example["x"], 2, 0), 2, 1)[:32, :48]}

    def quarter(key, example):
        return {**example, "x": jnp.rot90(example["x"])}

    move = jdl.data.move_keypoints
    batch = data.shuffled(1, 0, move(half, [(0, 1)], size="size"))[0]
    np.testing.assert_allclose(batch["keypoints"][0], [[8, 20, 2], [0] * 3, [0] * 3], atol=1e-3)
    np.testing.assert_allclose(batch["size"], [6], rtol=1e-4)
    turned = data.shuffled(1, 0, move(quarter, [(0, 1)]))[0]["keypoints"]
    np.testing.assert_allclose(turned[0], [[10, 44, 2], [20, 18, 1], [0] * 3], atol=1e-3)


def test_colors_and_pairs_that_are_none_are_refused():
    with pytest.raises(jdl.Error, match="move the pixels of an image"):
        jdl.data.move_keypoints(jdl.data.color_jitter(0.5), [])
    for pairs in ([(0, 1), (1, 2)], [(0, 1, 2)], [(0, 0)]):
        with pytest.raises(jdl.Error, match="A pair is two keypoints"):
            jdl.data.move_keypoints(jdl.data.random_flip(), pairs)
    with pytest.raises(jdl.Error, match="There are 3 keypoints, and the pairs are"):
        dots().shuffled(4, 0, jdl.data.move_keypoints(jdl.data.random_flip(), [(0, 3)]))[0]
