"""Cost of a step: operations counted by hand, and bytes on each device."""

import jax
import jax.numpy as jnp
import kitchen_sink
import pytest
from harness import train

import jdl
from jdl.cli.show import show
from jdl.inspect.cost import cost, operations
from jdl.parallel import build_mesh


def count(function, *arguments):
    return operations(jax.jit(function).trace(*arguments).jaxpr.jaxpr)


def test_products_are_counted_in_loops_and_branches_and_gradients():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    once = 2 * 3 * 4 * 5
    assert count(lambda: a @ b) == once
    assert (
        count(lambda: jax.lax.scan(lambda c, _: (c + (a @ b).sum(), None), 0.0, None, 7)[0])
        == 7 * once
    )
    assert count(lambda: jax.lax.cond(True, lambda: a @ b, lambda: jnp.zeros((3, 5)))) == once
    assert count(jax.value_and_grad(lambda a, b: (a @ b).sum(), (0, 1)), a, b) == 3 * once
    assert count(jax.checkpoint(lambda: a @ b)) == once


def test_convolutions_are_counted():
    x, kernel = jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 3, 10))
    out = jax.lax.conv_general_dilated
    convolution = count(
        lambda: out(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )
    )
    assert convolution == 2 * (2 * 8 * 8 * 10) * (3 * 3 * 3)


@pytest.mark.slow
def test_bytes_are_those_of_one_device():
    run = kitchen_sink.run(kitchen_sink.Config(name="kitchen_sink"))
    alone, divided = cost(run), cost(run, build_mesh("fsdp=2"))
    parameters = sum(
        leaf.nbytes
        for leaf in jax.tree.leaves(run.learner.init(jax.random.key(0), run.train[0]).params)
    )
    assert alone.params == parameters
    assert divided.params < 0.6 * parameters
    assert divided.operations == alone.operations // 2
    assert alone.temporary > 0
    assert 0 < alone.operations / alone.seconds < alone.peak
    assert "GFLOP/s" in str(alone)


@pytest.mark.slow
def test_show_memory_prints_the_cost_of_a_step(tmp_path, capsys):
    folder = train(tmp_path, steps=5).folder
    show(str(folder), tmp_path, memory=True)
    assert "activations, gradients" in capsys.readouterr().out
    with pytest.raises(jdl.Error, match="--elastic 0"):
        cost(kitchen_sink.run(kitchen_sink.Config(name="kitchen_sink", elastic=2)))
