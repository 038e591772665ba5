"""Augmentation of images: random crops, flips, erased squares and affine maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.data import random_affine, random_crop, random_erase, random_flip


def key(n=0):
    return jax.random.key(n)


def test_crops_are_windows_of_the_padded_image():
    image = {"x": jnp.arange(1.0, 17).reshape(4, 4, 1)}
    padded = np.pad(np.asarray(image["x"]), ((1, 1), (1, 1), (0, 0)))
    windows = [padded[i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    seen = {
        next(
            n
            for n, window in enumerate(windows)
            if (np.asarray(random_crop(1)(key(k), image)["x"]) == window).all()
        )
        for k in range(60)
    }
    assert seen == set(range(9))


def test_flips_mirror_half_of_the_images():
    image = {"x": jnp.arange(8.0).reshape(2, 4, 1)}
    flipped = [np.asarray(random_flip()(key(k), image)["x"]) for k in range(40)]
    mirrored = sum((x == np.asarray(image["x"])[:, ::-1]).all() for x in flipped)
    assert 10 < mirrored < 30
    assert mirrored + sum((x == np.asarray(image["x"])).all() for x in flipped) == 40


def test_erasing_fills_one_square():
    image = {"x": jnp.ones((5, 6, 2))}
    for k in range(10):
        erased = np.asarray(random_erase(3, probability=1.0)(key(k), image)["x"])
        rows, columns = np.nonzero((erased == 0).all(-1))
        assert len(rows) == 9
        assert (np.ptp(rows), np.ptp(columns)) == (2, 2)
    with pytest.raises(jdl.Error, match="does not fit"):
        random_erase(7)(key(), image)


@pytest.mark.slow
def test_affine_turns_moves_and_scales():
    """An image of its own coordinates says where each pixel was read."""
    places = jnp.moveaxis(jnp.indices((9, 9), jnp.float32), 0, -1)

    def read(**most):
        return jax.vmap(lambda key: random_affine(**most)(key, {"x": places})["x"])(
            jax.random.split(key(0), 200)
        )

    np.testing.assert_allclose(read(), jnp.broadcast_to(places, (200, 9, 9, 2)), atol=1e-5)
    moved = read(shift=1.5)[:, 2:7, 2:7] - places[None, 2:7, 2:7]
    assert np.ptp(np.asarray(moved), (1, 2)).max() < 1e-4
    assert 1.4 < np.abs(moved).max() <= 1.5 + 1e-4
    for most, angles, sizes in (
        ({"rotation": 30.0}, (25, 30), (1, 1)),
        ({"zoom": 0.3}, (0, 0), (1 / 1.3, 1 / 0.7)),
    ):
        found = read(**most)
        down, right = found[:, 5, 4] - found[:, 4, 4], found[:, 4, 5] - found[:, 4, 4]
        np.testing.assert_allclose(found[:, 4, 4], 4.0, atol=1e-5)  # the middle stays
        np.testing.assert_allclose(down[:, 0], right[:, 1], atol=1e-5)
        np.testing.assert_allclose(down[:, 1], -right[:, 0], atol=1e-5)
        size, angle = np.hypot(*down.T), np.degrees(np.arctan2(down[:, 1], down[:, 0]))
        assert angles[0] - 1e-3 <= np.abs(angle).max() <= angles[1] + 1e-3
        assert sizes[0] - 1e-4 <= size.min() <= size.max() <= sizes[1] + 1e-4
        assert np.ptp(size) >= 0.8 * (sizes[1] - sizes[0])
    with pytest.raises(jdl.Error, match="zoom below 1"):
        random_affine(zoom=1.0)


def test_images_of_floats_to_255_are_refused_by_changes_of_color():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 5, 5, 3)).astype(np.uint8)
    jitter = jdl.data.color_jitter(brightness=0.2)
    for x in (pixels, pixels / np.float32(255)):
        jdl.data.arrays(x=x).shuffled(4, 0, jitter)
    floats = jdl.data.arrays(x=pixels.astype(np.float32))
    for use in (lambda: floats.shuffled(4, 0, jitter), lambda: floats.map(jitter)):
        with pytest.raises(jdl.Error, match=r"color_jitter takes floats x from 0 to 1, but .* 255"):
            use()
