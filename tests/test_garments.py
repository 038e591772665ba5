"""Scenes of garments: functions of (seed, i), of garments of one side of the split alone.

Seen to fail: with draws that depend on the number of scenes, with test scenes of training garments,
with labels of the garment below, turned the other way.
"""

import numpy as np
import pytest

import jdl
from jdl.data import garments

NAMES = [f"kind {n}" for n in range(10)]


def squares(values, labels):
    """Garments of one brightness, 20 pixels wide and 12 high."""
    x = np.zeros((len(values), 28, 28, 1), np.uint8)
    x[:, 8:20, 4:24] = np.asarray(values, np.uint8)[:, None, None, None]
    return jdl.data.arrays(NAMES, x=x, y=np.asarray(labels))


@pytest.fixture
def sides(monkeypatch):
    """Garments to train on whose brightness is even, and to test on whose brightness is odd."""
    values = 100 + 10 * np.arange(10)
    both = squares(values, np.arange(10)), squares(values + 1, np.arange(10)[::-1])
    monkeypatch.setattr(garments, "tfds", lambda name: both)
    return both


def test_the_scenes_are_the_same_everywhere(sides):
    parts = jdl.data.garment_scenes(40, 10)  # more than one CHUNK
    assert [part.fingerprint[:16] for part in parts] == ["a797c7c58af085bd", "901e4afae8d87080"]
    fewer, _ = jdl.data.garment_scenes(5, 1)
    for name, column in fewer.columns.items():
        np.testing.assert_array_equal(column, parts[0].columns[name][:5])
    other, _ = jdl.data.garment_scenes(5, 1, seed=1)
    assert (other.columns["x"] != fewer.columns["x"]).any()
    assert parts[0].labels == ("background", *NAMES)
    assert parts[0].columns["x"].shape == (40, 96, 96, 1)
    assert set(np.unique(parts[0].columns["y"])) == set(range(11))
    with pytest.raises(jdl.Error, match="garment_scenes takes numbers of images, at least 1"):
        jdl.data.garment_scenes(0)


@pytest.fixture
def plain(monkeypatch):
    """No weave and no noise; garments as they are, except where a test says so."""

    def set_to(**garment):
        fixed = {"scale": 1.0, "turn": 0.0, "light": 1.0, **garment}
        ranges = {name: garments.GARMENT[name] for name in garments.GARMENT}
        ranges |= {name: (value, value) for name, value in fixed.items()}
        monkeypatch.setattr(garments, "GARMENT", ranges)
        canvas = dict.fromkeys(garments.SCENE, (0.0, 0.0))
        canvas |= {"warp_period": (3.0, 3.0), "weft_period": (3.0, 3.0)}
        monkeypatch.setattr(garments, "SCENE", canvas)

    return set_to


def test_every_pixel_has_the_label_of_the_garment_that_is_seen(sides, plain):
    """The brightness of a pixel tells the garment, and so its class and its side of the split."""
    plain()
    for n, part in enumerate(jdl.data.garment_scenes(60, 60)):
        x, y = part.columns["x"][..., 0].astype(int), part.columns["y"]
        inner = (x >= 100) & np.isin(x % 10, (0, 1))  # what interpolation has not mixed, or rarely
        kinds = (x - 100) // 10
        expected = 1 + (kinds if n == 0 else 9 - kinds)
        right = (y == expected)[inner]
        assert right.mean() > 0.97
        assert np.isin(x % 10, (n,))[inner].mean() > 0.97
        assert (y > 0)[x > 25].all()
        assert (x >= 25)[y > 0].all()


@pytest.mark.slow
def test_a_garment_is_turned_enlarged_and_moved(sides, plain):
    """Of a single garment: the area, the middle, and the angle of its long axis."""
    tangent = 0.25
    plain(scale=1.2, turn=tangent, down=50.0, right=40.0)
    y = jdl.data.garment_scenes(60, 1)[0].columns["y"]
    for mask in y[:8] > 0:  # all garments of a scene lie upon each other
        down, right = np.nonzero(mask)
        # Interpolation adds a third of a pixel at each side.
        assert len(down) == pytest.approx(1.44 * 20.7 * 12.7, rel=0.06)
        assert (down.mean(), right.mean()) == pytest.approx((50, 40), abs=0.6)
        covariance = np.cov(right, down)
        angle = 0.5 * np.arctan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1])
        assert angle == pytest.approx(-2 * np.arctan(tangent), abs=0.05)  # counterclockwise
