"""Models whose parameters name their axes, as Flax has it, are divided along "model" by the names.

Seen to fail: names that are ignored, "fsdp" on an axis that is taken, gathered parameters that
"fsdp" still divides, rules of Flax that are not asked for, an axis that cannot be divided evenly.
"""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jdl
from jdl.parallel import abstract_state, build_mesh, shard_data, shard_learner
from jdl.parallel.mesh import shardings
from jdl.store.checkpoints import Checkpoints, leaf_digests

NAMED, AXES = nn.with_logical_partitioning, nn.with_partitioning
DRAW = nn.initializers.lecun_normal()


class Named(nn.Module):
    """An MLP whose kernels name what their axes mean, or the axes of a mesh."""

    out: tuple = ("model", None)

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(16, kernel_init=NAMED(DRAW, ("embed", "mlp")))(x)
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(x))
        return nn.Dense(10, kernel_init=AXES(DRAW, self.out))(x)


def parts(out=("model", None)):
    """The learner and its data."""
    learner = jdl.descent(jdl.objectives.classify(Named(out)), optax.adam(1e-2))
    x = np.random.default_rng(0).normal(size=(32, 12)).astype(np.float32)
    data = jdl.data.arrays(x=x, y=np.arange(32, dtype=np.int32) % 10)
    return learner, data.shuffled(8, 0)


def train(mesh, steps=5):
    """The state after a few steps on a mesh, or on one device."""
    learner, data = parts()
    if mesh is not None:
        learner, data = shard_learner(learner, mesh), shard_data(data, mesh)
    state, step = jax.jit(learner.init)(jax.random.key(0), data[0]), jax.jit(learner.step)
    for n in range(steps):
        state = step(state, data[n])[0]
    return state


@pytest.fixture(scope="module")
def alone():
    """The state of one device."""
    return train(None)


@pytest.mark.parametrize(
    ("mesh", "first", "second"),
    [
        ("data=2,model=2", P(None, "model"), P("model")),
        ("fsdp=2,model=2", P("fsdp", "model"), P("model", "fsdp")),
        ("fsdp=4", P("fsdp"), P("fsdp")),
    ],
)
def test_named_axes_are_divided_and_compute_what_one_device_computes(mesh, first, second, alone):
    state = train(build_mesh(mesh))
    for params in (state.params, state.opt_state[0].mu):
        kernels = [nn.unbox(params)[name]["kernel"] for name in ("Dense_0", "Dense_1")]
        assert [kernel.sharding.spec for kernel in kernels] == [first, second]
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(alone.params), strict=True)
    for divided, whole in pairs:
        np.testing.assert_allclose(divided, whole, rtol=0, atol=1e-6)


def test_a_checkpoint_of_one_device_is_restored_by_named_axes(tmp_path, alone):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, alone, {})
    checkpoints.wait()
    restored, _ = checkpoints.restore(abstract_state(build_mesh("data=2,model=2"), alone))
    checkpoints.close()
    assert nn.unbox(restored.params)["Dense_0"]["kernel"].sharding.spec == P(None, "model")
    assert leaf_digests(restored) == leaf_digests(alone)


def test_rules_of_flax_come_first_and_gathered_parameters_are_whole_along_fsdp():
    mesh = build_mesh("fsdp=2,model=2")
    learner, data = parts()
    params = jax.eval_shape(learner.init, jax.random.key(0), data.spec).params

    def spec(**options):
        return nn.unbox(shardings(mesh, params, **options))["Dense_0"]["kernel"].spec

    assert spec(in_use=True) == P(None, "model")
    with nn.logical_axis_rules([("embed", "model")]):
        assert spec() == P("model", "fsdp")
    with nn.logical_axis_rules([("mlp", "fsdp")]):
        assert spec() == P(None, "fsdp")


def test_an_axis_that_cannot_be_divided_stays_whole_and_another_mesh_is_named():
    mesh = build_mesh("data=2,model=2")
    learner, data = parts((None, "model"))
    params = jax.eval_shape(learner.init, jax.random.key(0), data.spec).params
    found = nn.unbox(shardings(mesh, params))["Dense_1"]["kernel"].spec
    assert found == P(None, "model")
    three = build_mesh("model=3", 3)
    assert nn.unbox(shardings(three, params))["Dense_1"]["kernel"].spec == P(None, None)
    learner, data = parts(("tensor", None))
    with pytest.raises(jdl.Error, match=r"'tensor'.*data, fsdp, model"):
        shard_learner(learner, mesh).init(jax.random.key(0), data[0])
