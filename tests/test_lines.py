"""Lines of digits: functions of (seed, i), of digits of one side of the split alone.

Seen to fail: with draws that depend on the number of lines, with test lines of training digits,
with ink right of the width, and with labels of the next digit.
"""

import numpy as np
import pytest

import jdl
from jdl.data import lines, scenes


@pytest.fixture(scope="module")
def parts():
    return jdl.data.digit_lines(70, 30)  # more than one CHUNK


def test_the_lines_are_the_same_everywhere(parts):
    assert [part.fingerprint[:16] for part in parts] == ["ee14e28ffed7bc78", "5bd48b1ab297eb45"]
    fewer, _ = jdl.data.digit_lines(9, 1)
    for name, column in fewer.columns.items():
        np.testing.assert_array_equal(column, parts[0].columns[name][:9])
    other, _ = jdl.data.digit_lines(9, 1, seed=1)
    assert (other.columns["x"] != fewer.columns["x"]).any()


def test_lines_and_labels_are_padded(parts):
    columns = parts[0].columns
    x, width, y, length = (columns[name] for name in ("x", "width", "y", "y_length"))
    assert x.shape == (70, lines.HEIGHT, lines.WIDTH, 1)
    assert set(length) == set(range(3, 13))
    np.testing.assert_array_equal(y > 0, np.arange(12) < length[:, None])
    assert y.max() == 10
    padding = np.arange(lines.WIDTH) >= width[:, None]
    assert (x[..., 0].max(1)[padding] == 0).all()
    assert (x[..., 0].min(1)[:, :3].mean(1) > 100).all()  # paper
    assert parts[0].labels == ("", *"0123456789")
    with pytest.raises(jdl.Error, match="digit_lines takes numbers of images, at least 1"):
        jdl.data.digit_lines(0)


def test_digits_of_the_test_set_are_in_test_lines_alone(monkeypatch):
    """Squares as dark as their label, on clean lines: every one can be read off its middle."""
    squares = np.zeros((10, 8, 8, 1), np.float32)
    squares[:, 1:7, 1:7] = np.linspace(0, 0.9, 10)[:, None, None, None]
    digits = jdl.data.arrays(list("0123456789"), x=squares, y=np.arange(10))
    sides = digits.select(slice(0, 10, 2)), digits.select(slice(1, 10, 2))
    monkeypatch.setattr(scenes, "digits", lambda: sides)
    clean = {"scale": 2.0, "strokes": 1.0, "ink": 1.0, "paper": 1.0, "margin": 4.0}
    line = {name: (clean.get(name, 0.0),) * 2 for name in lines.LINE}
    digit = {"scale": (1.0, 1.0), "gap": (0.0, 0.0), "down": (0.0, 0.0), "ink": (1.0, 1.0)}
    monkeypatch.setattr(lines, "LINE", line)
    monkeypatch.setattr(lines, "DIGIT", digit)
    for part, side in zip(jdl.data.digit_lines(40, 40), sides, strict=True):
        columns = part.columns
        middles = 10 + 12 * np.arange(12)  # a digit takes 12 pixels
        darkness = 1 - columns["x"][:, 12, middles, 0] / 255
        real = columns["y"] > 0
        np.testing.assert_array_equal(np.rint(10 * darkness)[real], columns["y"][real] - 1)
        assert set(columns["y"][real] - 1) == set(side.columns["y"])
