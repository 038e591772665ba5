"""Scenes of digits: functions of (seed, i), of digits of one side of the split alone.

Seen to fail: with draws that depend on the number of scenes, with test scenes of training digits,
and with labels of the next digit.
"""

import numpy as np
import pytest

import jdl


@pytest.fixture(scope="module")
def scenes():
    return jdl.data.digit_scenes(300, 100)


def test_the_scenes_are_the_same_everywhere(scenes):
    assert [part.fingerprint[:16] for part in scenes] == ["a25dad9525a9b463", "05215fb495accebc"]
    fewer, _ = jdl.data.digit_scenes(20, 1)
    for name, column in fewer.columns.items():
        np.testing.assert_array_equal(column, scenes[0].columns[name][:20])
    other, _ = jdl.data.digit_scenes(20, 1, seed=1)
    assert (other.columns["x"] != fewer.columns["x"]).any()


def test_digits_of_the_test_set_are_in_test_scenes_alone(scenes):
    """A scene with one digit is that digit, somewhere, and its label."""
    digits = jdl.data.digits()
    for n, part in enumerate(scenes):
        own, others = (
            {
                np.rint(x[..., 0] * 255).astype(np.uint8).tobytes(): y
                for x, y in zip(side.columns["x"], side.columns["y"], strict=True)
            }
            for side in (digits[n], digits[1 - n])
        )
        found = 0
        for x, y in zip(part.columns["x"][..., 0], part.columns["y"], strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(x, (8, 8)).reshape(-1, 8, 8)
            whole = [window.tobytes() for window in windows if window.sum() == x.sum()]
            if y.sum() == 1 and whole:
                assert not others.keys() & set(whole)
                labels = {own[window] for window in whole if window in own}
                assert labels <= {int(y.argmax())}
                found += bool(labels)
        assert found > 10


def test_labels_and_counts_are_balanced(scenes):
    y = scenes[0].columns["y"]
    assert set(np.unique(y)) == {0, 1}
    assert set(y.sum(1)) == {1, 2, 3, 4}
    assert 0.15 < y.mean(0).min() <= y.mean(0).max() < 0.35
    assert scenes[0].labels == tuple("0123456789")
    with pytest.raises(jdl.Error, match="at least 1"):
        jdl.data.digit_scenes(0)
