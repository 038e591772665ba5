"""A custom data loader that defines the four required members alone."""

from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.types import Loader


class Noise(Loader):
    """The four required members and nothing else: y is 3 x + 1, of fresh rows in every batch."""

    def __init__(self, seed=0):
        self.seed, self.factor = seed, jnp.full((16,), 3.0)

    def __len__(self):
        return 4

    @property
    def spec(self):
        return {name: jax.ShapeDtypeStruct((16, 1), jnp.float32) for name in "xy"}

    def read(self, start=0):
        for i in count(start):
            rng = np.random.default_rng((self.seed, i))
            yield {"x": rng.normal(size=(16, 1)).astype(np.float32), "factor": self.factor}

    def batch(self, raw, i):
        return {"x": raw["x"], "y": raw["x"] * raw["factor"][0] + 1}


def test_a_loader_of_four_members_has_all_the_others():
    loader = Noise()
    assert (len(loader), loader.batch_size, loader.num_examples, loader.bounds) == (4, 16, 64, {})
    first, later = loader[0], loader[5]
    assert jax.tree.map(lambda c: (c.shape, c.dtype), first) == jax.tree.map(
        lambda c: (c.shape, c.dtype), loader.spec
    )
    assert (first["x"] != later["x"]).all()
    np.testing.assert_array_equal(later["y"], loader.batch(next(loader.read(5)), 5)["y"])
    assert loader.fingerprint == Noise().fingerprint != Noise(1).fingerprint


def test_a_part_of_a_loader_reads_those_rows_and_leaves_the_rest_as_it_is():
    loader = Noise()
    part = loader.shard(slice(4, 8))
    whole, cut = next(loader.read(3)), next(part.read(3))
    np.testing.assert_array_equal(cut["x"], whole["x"][4:8])
    assert cut["factor"] is whole["factor"]
    assert (len(part), part.batch_size, part.num_examples, part.bounds) == (4, 16, 64, {})
    assert (part.spec, part.fingerprint) == (loader.spec, loader.fingerprint)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_a_loader_of_four_members_trains(tmp_path, devices):
    from jdl.models.mlp import MLP

    learner = jdl.descent(jdl.objectives.regress(MLP(1, ())), jdl.optim.adamw(0.1))
    run = jdl.Run(jdl.Config(name="noise", steps=150), learner, Noise(), test=Noise(1))
    result = jdl.fit(run, jdl.Options(root=tmp_path, quiet=True, devices=devices))
    assert float(result.metrics["test"]["loss"].value()) < 1e-2
