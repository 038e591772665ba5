"""`jdl profile`: what a step's time goes into, by layer and by line.

Seen to fail: the backward pass counted as forward, lines of libraries instead of the model's, times
of all steps together, a program of other lines from the cache, operations of loops without their
layer, operations of other programs, the faster of arithmetic and memory as the bound.
"""

import gzip
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.cli.profile import profile as command
from jdl.inspect.cost import step_operations
from jdl.inspect.profile import _of_module, profile
from jdl.inspect.roofline import Roofline, bandwidth
from jdl.inspect.source_lines import origins, read_scope
from jdl.models.mlp import MLP


def small_run(**config):
    data = jdl.data.digits()[0].batches(64)
    learner = jdl.descent(jdl.objectives.classify(MLP(10, hidden=(32,))), optax.adam(1e-3))
    return jdl.Run(jdl.Config("small", steps=3, **config), learner, data)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("jit(step)/jvp(CNN)/Conv_1/conv", ("CNN/Conv_1", False, "conv")),
        ("jit(step)/transpose(jvp(CNN))/Conv_1/cond/branch_0_fun/mul", ("CNN/Conv_1", True, "mul")),
        ("jit(step)/jit(step)/optimizer/sqrt", ("optimizer", False, "sqrt")),
        ("jit(step)/jvp()/exp", ("", False, "exp")),
        ("jit(step)/jvp(GPT)/stack/stack.call/b_0/while/dot", ("GPT/stack/b_0", False, "dot")),
        ("jit(step)/jvp(A)/Drop_0/vmap(jit(_uniform))/while/add", ("A/Drop_0", False, "add")),
        ("jit(step)/while/body/closed_call/jvp(vmap(A))/B_0/dot", ("A/B_0", False, "dot")),
        ("jit(step)/jvp(A)/scan/while/body/checkpoint/block/dot", ("A/scan/block", False, "dot")),
        ("jit(step)/vmap()/vmap(jit(_threefry_fold_in))/stream/add", ("", False, "add")),
        ("copy", ("", False, "copy")),
    ],
)  # fmt: skip
def test_a_scope_has_layer_pass_and_operation(name, expected):
    assert read_scope(name) == expected


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["", "data=2"])
def test_a_profile_has_layers_and_lines(tmp_path, mesh):
    run = small_run()
    found = profile(run, tmp_path / "to" / "trace.json.gz", 3, jdl.Options(mesh=mesh))
    layers = {layer: (forward, backward) for layer, forward, backward in found.by_layer()}
    assert {"MLP/Dense_0", "MLP/Dense_1", "optimizer", "batch"} <= set(layers)
    assert min(layers["MLP/Dense_0"]) > 0
    assert layers["optimizer"][1] == 0
    assert found.devices == (2 if mesh else 1)
    assert found.roofline.operations == step_operations(run) // found.devices
    products = [p for p in found.operations if p.origin.operation == "dot_general"]
    assert {round(p.times) for p in products if not p.origin.backward} == {found.devices}
    assert all(p.origin.source.startswith("jdl/models/mlp.py:") for p in products)
    assert 0 < found.busy < 60
    events = json.loads(gzip.decompress(found.trace.read_bytes()))["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"MLP/Dense_1: dot_general", "MLP/Dense_1 backward: dot_general"} <= names
    assert sum(event.get("name") == "step" for event in events) == 3
    assert "MLP/Dense_*" in [part.origin.layer for part in found.by_line()]
    assert "MLP/Dense_*, jdl/models/mlp.py:" in str(found)
    assert list(tmp_path.iterdir()) == [tmp_path / "to"]  # no run's folder


def test_operations_of_other_programs_do_not_count():
    mine, other = {"args": {"hlo_module": "jit_step"}}, {"args": {"hlo_module": "jit_load"}}
    assert _of_module([mine, other, {"name": "step"}], "HloModule jit_step, x") == [
        mine, {"name": "step"},
    ]  # fmt: skip


def test_a_roofline_is_bound_by_the_slower_of_arithmetic_and_memory():
    memory = Roofline(operations=100, moved=50, seconds=9.0, peak=100.0, bandwidth=10.0)
    assert (memory.intensity, memory.ridge, memory.at_best) == (2, 10, 5)
    assert memory.bound == "memory-bound, ridge point 10.0"
    compute = replace(memory, operations=700)
    assert (compute.at_best, compute.bound[:13]) == (7, "compute-bound")
    assert replace(memory, seconds=4.0).bound.startswith("unknown: caches")
    assert bandwidth() > 1e8


def test_the_parts_of_loops_have_their_layer():
    def step(w, x):
        with jax.named_scope("loop"):
            return jax.lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c @ w), x)

    args = np.ones((8, 8), np.float32), np.ones((4, 8), np.float32)
    found = origins(jax.jit(step).lower(*args).compile().as_text())
    tanh = [origin for origin in found.values() if origin.operation == "tanh"]
    assert {(origin.layer, origin.backward) for origin in tanh} == {("loop", False)}
    assert all("test_profile.py:" in origin.source for origin in tanh)


def test_what_cannot_be_profiled_is_refused(tmp_path):
    with pytest.raises(jdl.Error, match="one compiled program"):
        profile(small_run(elastic=2), tmp_path / "a.json.gz")
    with pytest.raises(jdl.Error, match="--parallel pmap"):
        profile(small_run(), tmp_path / "a.json.gz", 1, jdl.Options(parallel="pmap"))
    with pytest.raises(jdl.Error, match="1 step or more, not 0"):
        profile(small_run(), tmp_path / "a.json.gz", 0)
    with pytest.raises(jdl.Error, match="needs the script"):
        command([])
    with pytest.raises(jdl.Error, match=r"a \.json\.gz file, not a\.txt"):
        command(["experiments/digits_mlp.py", "--out", "a.txt"])
    assert list(tmp_path.iterdir()) == []
