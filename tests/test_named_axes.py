"""Models whose parameters name their axes, as Flax has it, are divided along "model" by the names.

Seen to fail: names that are ignored or left on the parameters, rules of transformers before the
names, the last of two rules, paths in
the order of the model, rules of Flax or of the box that are not asked for, names that do not
fit; a "model" that divides nothing, without a note, and a note on every mesh.
"""

from dataclasses import replace

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jdl
from jdl.models.mlp import MLP
from jdl.parallel import (
    abstract_state,
    build_mesh,
    mesh_notes,
    parameter_rules,
    shard_data,
    shard_learner,
)
from jdl.store.checkpoints import Checkpoints, leaf_digests
from jdl.train.preemption import PausedError

NAMED, AXES = nn.with_logical_partitioning, nn.with_partitioning
DRAW = nn.initializers.lecun_normal()


class Named(nn.Module):
    """An MLP whose kernels name what their axes mean, or the axes of a mesh."""

    first: tuple = ("embed", "mlp")
    last: tuple = ("model", None)
    rules: tuple | None = None

    @nn.compact
    def __call__(self, x, train):
        init = NAMED(DRAW, self.first, rules=self.rules)
        x = nn.Dense(16, kernel_init=init, name="first")(x)
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(x))
        return nn.Dense(10, kernel_init=AXES(DRAW, self.last), name="head")(x)


def parts(model):
    """The learner and its data."""
    learner = jdl.descent(jdl.objectives.classify(model), optax.adam(1e-2))
    x = np.random.default_rng(0).normal(size=(32, 12)).astype(np.float32)
    data = jdl.data.arrays(x=x, y=np.arange(32, dtype=np.int32) % 10)
    return learner, data.shuffled(8, 0)


def train(mesh, steps=5):
    """The state after a few steps on a mesh, or on one device, and the rules."""
    learner, data = parts(Named())
    rules = () if mesh is None else parameter_rules(learner, data.spec, mesh)
    if mesh is not None:
        learner, data = shard_learner(learner, mesh, rules), shard_data(data, mesh)
    state, step = jax.jit(learner.init)(jax.random.key(0), data[0]), jax.jit(learner.step)
    for n in range(steps):
        state = step(state, data[n])[0]
    return state, rules


@pytest.fixture(scope="module")
def alone():
    """The state of one device."""
    return train(None)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "first", "last"),
    [
        ("data=2,model=2", P(None, "model"), P("model")),
        ("fsdp=2,model=2", P("fsdp", "model"), P("model", "fsdp")),
        ("fsdp=4", P("fsdp"), P("fsdp")),
    ],
)
def test_named_axes_are_divided_and_compute_what_one_device_computes(mesh, first, last, alone):
    state, _ = train(build_mesh(mesh))
    for params in (state.params, state.opt_state[0].mu):
        kernels = [params[name]["kernel"] for name in ("first", "head")]
        assert [kernel.sharding.spec for kernel in kernels] == [first, last]
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(alone.params), strict=True)
    for divided, whole in pairs:
        np.testing.assert_allclose(divided, whole, rtol=0, atol=1e-6)


def test_a_checkpoint_of_one_device_is_restored_by_named_axes(tmp_path, alone):
    mesh = build_mesh("data=2,model=2")
    learner, data = parts(Named())
    rules = parameter_rules(learner, data.spec, mesh)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, alone, {})
    checkpoints.wait()
    restored, _ = checkpoints.restore(abstract_state(mesh, alone, rules))
    checkpoints.close()
    assert restored.params["first"]["kernel"].sharding.spec == P(None, "model")
    assert leaf_digests(restored) == leaf_digests(alone)


@pytest.mark.slow
def test_a_run_with_named_axes_moves_to_another_mesh(tmp_path):
    """Through `fit`, which traces the initial state once before."""
    learner, data = parts(Named())
    run = jdl.Run(jdl.Config(name="named", steps=4), jdl.ema(learner, 0.9), data, test=data)
    options = jdl.Options(root=tmp_path, quiet=True, mesh="fsdp=2")
    with pytest.raises(PausedError):
        jdl.fit(run, replace(options, until=2))
    for steps in (2, 0):  # trained, and restored alone
        result = jdl.fit(run, replace(options, mesh="data=2,model=2"))
        assert result.steps == steps
        for params in (result.state.params, result.state.opt_state[0].nu):
            assert params["first"]["kernel"].sharding.spec == P(None, "model")


@pytest.mark.slow
@pytest.mark.parametrize("model", [MLP(10), Named()], ids=["whole", "named"])
def test_a_mesh_that_divides_nothing_of_the_model_is_named(tmp_path, capsys, model):
    learner, data = parts(model)
    run = jdl.Run(jdl.Config(name="whole", steps=1), learner, data, test=data)
    jdl.fit(run, jdl.Options(root=tmp_path, mesh="model=2"))
    told = "Note: model=2 of --mesh divides no parameter of this model" in "".join(
        capsys.readouterr()
    )
    assert told == isinstance(model, MLP)


def test_only_a_mesh_that_cuts_models_has_a_note():
    """Axes of data, and fully sharded ones, cut every model."""
    learner, data = parts(MLP(10))
    state = jax.eval_shape(learner.init, jax.random.key(0), data[0])
    for mesh, notes in (("data=2", 0), ("fsdp=2", 0), ("data=2,model=2", 1)):
        assert len([*mesh_notes(abstract_state(build_mesh(mesh), state))]) == notes
    assert not [*mesh_notes(state)]


def test_nothing_else_sees_the_names():
    learner, data = parts(Named())
    plain = jdl.lora(learner.objective, "first", rank=2).init(jax.random.key(0), data[0])
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(plain)]
    assert not [path for path in paths if "value" in path]


def rules_of(model, mesh="data=2,model=2"):
    """The axis that the rules of a model divide of its first kernel."""
    learner, data = parts(model)
    rules = parameter_rules(learner, data.spec, build_mesh(mesh))
    return dict(rules).get("/first/kernel$", "no rule")


def test_whose_rules_name_what_is_divided():
    assert rules_of(Named()) == 1
    assert rules_of(Named(), "fsdp=4") == "no rule"
    assert rules_of(Named(("mlp", "heads"))) == 1  # as Flax has it: by the first rule, once
    assert rules_of(Named(("embed", None))) is None
    assert rules_of(Named(rules=(("embed", "model"),))) == 0
    with nn.logical_axis_rules([("embed", ("fsdp", "model")), ("embed", None)]):
        assert rules_of(Named()) == 0


class Nested(nn.Module):
    """Two kernels whose paths end alike."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(10, kernel_init=AXES(DRAW, ("model", None)), name="head")(x)
        return Inner(name="trunk")(x)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10, kernel_init=AXES(DRAW, (None, "model")), name="head")(x)


def test_the_longest_path_rules():
    learner, data = parts(Nested())
    mesh = build_mesh("data=2,model=2")
    state = jax.eval_shape(learner.init, jax.random.key(0), data.spec)
    params = abstract_state(mesh, state, parameter_rules(learner, data.spec, mesh)).params
    assert params["head"]["kernel"].sharding.spec == P("model", None)
    assert params["trunk"]["head"]["kernel"].sharding.spec == P(None, "model")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Named(last=("tensor", None)), "head/kernel .* along 'tensor'"),
        (Named(last=("data", None)), "along 'data', and those are divided along fsdp or model"),
        (Named(last=("model", "model")), r"head/kernel \(16, 10\) .* name each once"),
        (Named(last=("model", None, None)), "name each once"),
        (Named(("embed", "mlp", "kv")), r"first/kernel \(12, 16\)"),
        (Named(rules=(("mlp", "tensor"),)), "first/kernel .* along 'tensor'"),
    ],
)
def test_names_that_do_not_fit_are_refused(model, message):
    with pytest.raises(jdl.Error, match=message):
        rules_of(model)
