"""Standardization: scikit-learn's numbers, of the training part alone, on every split.

Seen to fail: statistics of the padding too; deviations of a sample instead of a population; padded
time steps counted.
"""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.preprocessing import StandardScaler

import jdl
from jdl.data import arrays, standardize
from jdl.data.standardize import ROWS
from jdl.models.mlp import MLP

TABLE = np.random.default_rng(0).normal(3, 2, (ROWS + 100, 5)).astype(np.float32)
TABLE[:, 3] = 7.1  # one value
LABELS = np.arange(len(TABLE)) % 2


def values_of(data, size=256):
    loader = data.batches(size)
    return np.concatenate(
        [np.asarray(b["x"])[np.asarray(b["mask"])] for b in (loader[i] for i in range(len(loader)))]
    )


@pytest.mark.parametrize("where", ["on the device", "streaming"])
def test_equals_scikit_learn(where):
    table = arrays(x=TABLE, y=LABELS)
    table = table if where == "on the device" else table.streaming()
    train, test = standardize(*(table.split(0.95, 0.05)))
    scaler = StandardScaler().fit(train.columns["x"].astype(np.float64))
    np.testing.assert_allclose(train.transforms[-1].mean, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(train.transforms[-1].std, scaler.scale_, rtol=1e-12)
    for split in (train, test):
        expected = scaler.transform(split.columns["x"].astype(np.float64))
        np.testing.assert_allclose(values_of(split), expected, atol=1e-6)


def test_channels_of_images_of_bytes_after_a_transform():
    images = np.random.default_rng(1).integers(0, 256, (30, 4, 3, 2), dtype=np.uint8)
    inverted = arrays(x=images).map(lambda key, row: {**row, "x": 1 - row["x"]})
    (train,) = standardize(inverted, per="channel")
    found = values_of(train)
    np.testing.assert_allclose(train.transforms[-1].mean, 1 - images.mean((0, 1, 2)) / 255, 1e-6)
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(found.std((0, 1, 2)), 1, atol=1e-6)


def test_padded_steps_do_not_count_and_stay():
    x = np.random.default_rng(2).normal(5, 2, (20, 6, 3)).astype(np.float32)
    length = 1 + np.arange(20) % 6
    real = np.arange(6)[None] < length[:, None]
    x[~real] = 0
    (train,) = standardize(arrays(x=x, length=length), per="channel")
    np.testing.assert_allclose(train.transforms[-1].mean, x[real].mean(0), rtol=1e-6)
    np.testing.assert_allclose(train.transforms[-1].std, x[real].std(0), rtol=1e-6)
    found = values_of(train)
    assert (found[~real] == 0).all()
    np.testing.assert_allclose(found[real].std(0), 1, atol=1e-6)


def test_other_columns_and_what_is_refused():
    table = arrays(x=TABLE, y=TABLE[:, 0] * 3)
    train = standardize(table, columns=("x", "y"))[0]
    assert [t.column for t in train.transforms] == ["x", "y"]
    np.testing.assert_allclose(train.transforms[-1].std, 3 * train.transforms[0].std[0], 1e-5)
    with pytest.raises(jdl.Error, match="no column z"):
        standardize(table, columns=("z",))
    with pytest.raises(jdl.Error, match="of one shape"):
        standardize(table, arrays(x=TABLE[:, :2], y=LABELS))
    with pytest.raises(jdl.Error, match="feature"):
        standardize(table, per="row")


@pytest.mark.slow
def test_the_record_of_a_run_has_them(tmp_path):
    train, test = standardize(*arrays(x=TABLE, y=LABELS).split(0.8, 0.2))
    learner = jdl.descent(jdl.objectives.classify(MLP(2, ())), optax.sgd(0.1))
    c = jdl.Config(name="standardized", steps=1)
    run = jdl.Run(c, learner, train.shuffled(64, 0), test=test.batches(64))
    folder = jdl.fit(run, jdl.Options(root=tmp_path, quiet=True)).folder
    recorded = json.loads((folder / "run.json").read_text())["normalization"]["x"]
    assert recorded["mean"] == train.transforms[-1].mean.tolist()
    assert recorded["std"][3] == 1
    assert jnp.isfinite(jnp.asarray(recorded["std"])).all()
