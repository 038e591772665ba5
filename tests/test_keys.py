"""Streams are a function of key, name and step, the same in every process."""

import jax
import numpy as np
import pytest

from jdl import stream


def data(key):
    return np.asarray(jax.random.key_data(key)).tolist()


def test_streams_differ_by_key_name_and_step():
    base = jax.random.key(0)
    made = [
        stream(base, "dropout"),
        stream(base, "dropout", 1),
        stream(base, "order"),
        stream(jax.random.key(1), "dropout"),
    ]
    assert len({str(data(key)) for key in made}) == len(made)


def test_stream_is_the_same_in_every_process_and_under_jit():
    key = stream(jax.random.key(7), "dropout", 3)
    assert data(key) == [245445875, 2893619023]  # threefry2x32, CRC-32 of "dropout"
    assert data(jax.jit(lambda k, step: stream(k, "dropout", step))(jax.random.key(7), 3)) == data(
        key
    )


def test_a_key_that_is_used_twice_is_an_error_in_all_tests():
    def drawn(key):
        return jax.random.normal(key, (2,)) + jax.random.uniform(key, (2,))

    with pytest.raises(jax.errors.KeyReuseError):
        jax.jit(drawn)(jax.random.key(0))
