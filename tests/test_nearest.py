"""Nearest neighbors: those of all distances, whatever the numbers.

Seen to fail: a limit without the error of rounding, candidates of too few chunks, all rows for
every row, a cache whose key leaves k out.
"""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import jdl
from jdl.data import nearest
from jdl.data.nearest import nearest_rows

RNG = np.random.default_rng(0)
ROWS = {
    "normal": RNG.normal(size=(700, 8)),
    "ties": RNG.integers(0, 3, (700, 4)),  # 81 different rows: each is there many times
    "far apart": RNG.normal(size=(700, 8)) + 3e4 * RNG.choice([-1, 1], (700, 1)),
    "sorted": np.sort(RNG.normal(size=(700, 1)), 0),  # the neighbors are in one chunk
    "few": RNG.normal(size=(30, 8)),
}


@pytest.mark.parametrize("name", ROWS)
def test_neighbors_are_those_of_all_distances(name, monkeypatch):
    monkeypatch.setattr(nearest, "CHUNKS", 100)
    x = ROWS[name].astype(np.float32)
    distances = cdist(x, x, "sqeuclidean")
    np.fill_diagonal(distances, np.inf)
    for k in (1, 5):
        wanted = np.argsort(distances, 1, kind="stable")[:, :k]
        np.testing.assert_array_equal(nearest_rows(x, k), wanted)


def test_most_rows_are_compared_with_few(monkeypatch):
    """Else neighbors would be right, but slow."""
    monkeypatch.setattr(nearest, "CHUNKS", 100)
    compared, closest = [], nearest._closest
    monkeypatch.setattr(
        nearest,
        "_closest",
        lambda x, row, *rest: compared.append(len(rest[0])) or closest(x, row, *rest),
    )
    nearest_rows(ROWS["normal"].astype(np.float32), 5)
    assert len(compared) == 700
    assert max(compared) < 100


def test_neighbors_of_many_rows_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("JDL_CACHE", str(tmp_path))
    monkeypatch.setattr(nearest, "CACHED", 30)
    x = ROWS["few"].astype(np.float32)
    found = nearest_rows(x, 3)
    monkeypatch.setattr(nearest, "_nearest", lambda x, k: np.full((len(x), k), -1))
    np.testing.assert_array_equal(nearest_rows(x, 3), found)
    assert (nearest_rows(x, 2) == -1).all()
    assert (nearest_rows(x + 1, 3) == -1).all()


def test_a_row_without_distances_is_refused():
    x = ROWS["few"].astype(np.float32)
    x[7, 2] = np.nan
    with pytest.raises(jdl.Error, match="Row 7 of x has NaN"):
        nearest_rows(x, 3)
