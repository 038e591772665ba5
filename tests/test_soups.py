"""Averages of weights: soups and task vectors against NumPy, and BatchNorm's statistics anew.

Seen to fail: with sums of float32, models taken into a soup that make it worse or in another order,
models and counts that differ let through, statistics not divided by what momentum leaves, and an
average of another count or of other steps.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.learners import trace_once
from jdl.models.cnn import CNN
from jdl.objectives import classify, quantize_variables
from jdl.train.check import check_run
from jdl.weights import (
    add_task_vectors,
    greedy_soup,
    recompute_batch_stats,
    save,
    task_vector,
    uniform_soup,
)
from jdl.weights.load import arrays_by_path

IMAGES = np.random.default_rng(0).normal(2.0, 3.0, (24, 6, 6, 1)).astype(np.float32)
DATA = jdl.data.arrays(x=IMAGES, y=np.arange(24) % 3)


def model(seed, dtype=np.float32):
    """Variables of random numbers: two collections, and a count."""
    draw = np.random.default_rng(seed)
    return {
        "params": {"a": {"kernel": draw.normal(size=(3, 2)).astype(dtype)}},
        "batch_stats": {"mean": draw.normal(size=2).astype(np.float32)},
        "state": {"seen": np.int32(3)},
    }


def test_a_uniform_soup_is_the_mean_of_each_number_also_of_weights_in_files(tmp_path):
    models = [model(seed) for seed in range(3)]
    save(models[1], tmp_path / "one.safetensors")
    mixed = [models[0], jdl.weights.load(tmp_path / "one.safetensors"), models[2]]
    soup = uniform_soup(mixed)
    for path, x in arrays_by_path(soup).items():
        leaves = [arrays_by_path(m)[path].astype(np.float64) for m in models]
        np.testing.assert_array_equal(x, np.mean(leaves, 0).astype(x.dtype), strict=True)
    assert set(soup) == set(models[0])


def test_sums_are_of_float64():
    large, small = ({"params": {"w": np.float32([x])}} for x in (2.0**25, 1.0))
    three = [large, *[small] * 3]
    assert uniform_soup(three)["params"]["w"] == np.float32((2.0**25 + 3) / 4)
    half = uniform_soup([model(seed, jnp.bfloat16) for seed in (0, 1)])
    assert half["params"]["a"]["kernel"].dtype == jnp.bfloat16


def test_a_greedy_soup_takes_what_does_not_harm():
    """Models 4, 1, -3 and 9, scored by their distance from 3."""
    models = [{"params": {"w": np.float32([x])}} for x in (9, 1, -3, 4)]
    seen = []

    def score(variables):
        seen.append(float(variables["params"]["w"][0]))
        return -abs(seen[-1] - 3)

    soup = greedy_soup(models, score)
    assert seen == pytest.approx([9, 1, -3, 4, 2.5, 14 / 3, 2 / 3])
    assert soup["params"]["w"] == 2.5


def test_task_vectors_are_added_and_taken_away():
    base, one, two = (model(seed) for seed in range(3))
    vectors = [task_vector(fine_tuned, base) for fine_tuned in (one, two)]
    kernel = {
        name: m["params"]["a"]["kernel"] for name, m in zip("bot", (base, one, two), strict=True)
    }
    both = add_task_vectors(base, vectors, 0.5)
    np.testing.assert_allclose(
        both["params"]["a"]["kernel"],
        kernel["b"] + 0.5 * (kernel["o"] - kernel["b"] + kernel["t"] - kernel["b"]),
        rtol=1e-6,
    )
    back = add_task_vectors(one, vectors[:1], -1.0)
    np.testing.assert_allclose(back["params"]["a"]["kernel"], kernel["b"], atol=1e-6)
    np.testing.assert_array_equal(back["batch_stats"]["mean"], one["batch_stats"]["mean"])
    assert list(vectors[0]) == ["params"]


def other(change):
    changed = model(1)
    change(changed)
    return changed


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "at least one model"),
        (
            [model(0), other(lambda m: m["params"].update(b=np.zeros(2)))],
            r"1 paths: params/b \(none, float64\[2\]\)",
        ),
        (
            [model(0), model(1), other(lambda m: m["params"]["a"].update(kernel=np.zeros(3)))],
            r"models 1 and 3 .*params/a/kernel \(float32\[3, 2\], float64\[3\]\)",
        ),
        (
            [model(0), other(lambda m: m["state"].update(seen=np.int32(4)))],
            "state/seen is int32, and differs",
        ),
        (
            [quantize_variables(model(seed), "kernel") for seed in (0, 1)],
            "values is int8, and differs",
        ),
    ],
)
def test_models_that_do_not_match_are_refused_with_their_names(models, message):
    with pytest.raises(jdl.Error, match=message):
        uniform_soup(models)


def test_statistics_of_batch_norm_are_those_of_the_data():
    """The first layer sees the images themselves: its statistics are known."""
    net = CNN(3, ((2, 1),), dense=(), batch_norm=True, pool=lambda x: x)
    objective, batches = classify(net), DATA.batches(8)
    variables = jax.jit(objective.init)(jax.random.key(0), batches[0])
    found = recompute_batch_stats(objective, variables, batches)
    kernel = variables["params"]["Conv_0"]["kernel"]
    out = jax.lax.conv_general_dilated(
        IMAGES, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    of_batches = np.asarray(out, np.float64).reshape(3, -1, 2)  # 3 batches of 8 images
    statistics = found["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], of_batches.mean(1).mean(0), rtol=1e-4)
    np.testing.assert_allclose(statistics["var"], of_batches.var(1).mean(0), rtol=1e-4)
    objective = jdl.fake_quantize(objective, "Conv_0", activations=True)
    ranged = jax.jit(objective.init)(jax.random.key(0), batches[0])
    ranged["batch_stats"]["Conv_0"]["input_range"] = jnp.asarray(9.0)
    again = recompute_batch_stats(objective, ranged, batches)["batch_stats"]
    assert again["Conv_0"]["input_range"] == 9
    for name in ("mean", "var"):  # but for the rounding to 8 bits
        np.testing.assert_allclose(
            again["BatchNorm_0"][name], statistics[name], rtol=0.05, atol=0.02
        )
    with pytest.raises(jdl.Error, match="have no statistics"):
        recompute_batch_stats(objective, {"params": variables["params"]}, batches)


@pytest.mark.slow
def test_swa_is_the_equal_average_of_late_steps():
    plain = jdl.descent(classify(CNN(3, ((2, 1),), dense=(), batch_norm=True)), optax.adam(1e-2))
    learner, batch = jdl.swa(plain, start=2, every=3), DATA.batches(24)[0]
    state, step, taken = jax.jit(learner.init)(jax.random.key(0), batch), jax.jit(learner.step), []
    for t in range(1, 9):
        state, _ = step(state, batch)
        newest = {"params": state.params, **state.model_state}
        taken += [newest] if t in (2, 5, 8) else []
        found = learner.eval_variables(state)
        if t < 2:
            jax.tree.map(np.testing.assert_array_equal, found, newest)
        else:
            jax.tree.map(
                lambda x, *leaves: np.testing.assert_allclose(x, np.mean(leaves, 0), atol=1e-6),
                found,
                *taken,
            )
    run = jdl.Run(jdl.Config("late", steps=1), learner, DATA.shuffled(8, 0))
    with pytest.raises(jdl.Error, match=r"swa\(start=2\) begins after the last step, 1"):
        check_run(replace(run, learner=trace_once(run.learner)))
    check_run(replace(run, config=jdl.Config("late", steps=2)))
    for start, every in ((0, 1), (1, 0)):
        with pytest.raises(jdl.Error, match="step 1 or later"):
            jdl.swa(plain, start, every)
