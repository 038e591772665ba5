"""A small table with every kind of column."""

from datetime import datetime, timedelta

import jax
import numpy as np
import pandas

ROWS = 60


def people():
    """A frame with every kind of column, missing values among them."""
    chance = np.random.default_rng(0)
    day = [datetime(2020, 1, 1) + timedelta(hours=int(n)) for n in chance.integers(0, 9_999, ROWS)]
    return pandas.DataFrame(
        {
            "age": np.where(chance.random(ROWS) < 0.2, np.nan, chance.normal(40, 10, ROWS)),
            "children": chance.integers(0, 5, ROWS),
            "city": chance.choice(["Köln", "São Paulo", 'a "quoted", one', None], ROWS),
            "member": chance.random(ROWS) < 0.5,
            "since": day,
            "weight": chance.random(ROWS),
            "y": chance.choice(["no", "yes"], ROWS),
        }
    )


def csv_of(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def taken(dataset):
    return dataset.take(np.arange(len(dataset)))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
