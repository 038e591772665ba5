"""A mean that merges is the mean of all; an exception has a first line.

Seen to fail: a first line taken by `splitlines()[0]`, which an empty message has not;
values and a mask of other rows, with JAX's error.
"""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from jdl import Mean
from jdl.errors import Error, first_line


def test_merged_mean_is_not_the_mean_of_means():
    parts = [jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0, 5.0]), jnp.asarray([10.0])]
    merged = sum((Mean.of(part) for part in parts[1:]), Mean.of(parts[0]))
    assert merged.value() == pytest.approx(30 / 7)
    assert np.mean([part.mean() for part in parts]) == pytest.approx(6.6666667)


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_masked_rows_do_not_count_even_when_nan(shape):
    values = jnp.ones(shape).at[1].set(jnp.nan)
    mean = Mean.of(values, jnp.asarray([True, False, True]))
    assert mean.value() == 1
    assert float(mean.count) == 2 * np.prod(shape[1:])


def test_float_mask_weighs():
    assert Mean.of(jnp.asarray([1.0, 4.0]), jnp.asarray([1.0, 0.5])).value() == 2


@pytest.mark.parametrize(
    ("values", "mask"), [((), (8,)), ((5,), (4,)), ((1, 8), (8,)), ((3,), (3, 2))]
)
def test_values_that_are_not_of_the_rows_of_a_mask_are_refused(values, mask):
    message = re.escape(f"values of shape {values} with a mask of shape {mask}: give one value")
    with pytest.raises(Error, match=message):
        Mean.of(jnp.ones(values), jnp.ones(mask))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no disk.\nat 0x7f"), "ValueError: no disk"),
        (OSError("\n x: \n"), "OSError: x"),
        (KeyError(), "KeyError"),
        (ValueError("a" * 301), f"ValueError: {'a' * 300}"),
    ],
)
def test_the_first_line_of_an_exception_is_there_without_a_message_too(error, text):
    assert first_line(error) == text
