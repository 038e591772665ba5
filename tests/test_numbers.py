"""Numbers as they are printed. Seen to fail: with four decimals for all."""

import math

import pytest

from jdl.numbers import number_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.95, "0.9500"),
        (12.3456789, "12.3457"),
        (0.0, "0.0000"),
        (0.00021344, "0.0002134"),
        (-0.025, "-0.02500"),
        (3e-9, "3.000e-09"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_a_metric_has_four_decimals_or_four_digits(value, text):
    assert number_text(value) == text
