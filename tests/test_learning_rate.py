"""The learning-rate range test: it suggests a rate that learns, or is refused.

Seen to fail: with a schedule that is not held, and updates that are not scaled.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted_faults import mlp, of_table, run_of
from unsupervised_table import UNSUPERVISED

import jdl
from jdl.figures.learning_rate import loss_limits
from jdl.inspect.learning_rate import (
    LARGEST,
    LearningRates,
    find_learning_rate,
    hold_schedule,
    scaled_step,
)
from jdl.inspect.sanity.subject import train_on_one_batch

ENDS = (10.0, LARGEST)  # factors at which a range test ends


def test_a_scaled_step_is_one_at_that_rate():
    """To a rounding; of a schedule, at the rate of the step at which it is held."""
    rate = 0.02
    schedule = optax.linear_schedule(0.0, rate, 10)
    slow, quick = (
        run_of(mlp(), optimizer=optimizer).learner
        for optimizer in (optax.adamw(schedule), optax.adamw(3 * rate))
    )
    batch = run_of(mlp()).train[0]
    start = slow.init(jax.random.key(0), batch)
    held = hold_schedule(start, 10)
    scaled, _ = jax.jit(scaled_step, static_argnums=0)(slow, held, batch, jnp.float32(3))
    reference, _ = jax.jit(quick.step)(quick.init(jax.random.key(0), batch), batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        scaled.params,
        reference.params,
    )


@pytest.mark.slow
def test_the_range_test_finds_a_rate_that_learns(tmp_path):
    """Of a run whose own rate is too small by two orders of magnitude, with a warmup."""
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 1e-4, 100, 1_000))
    run = run_of(mlp(), optimizer=optimizer)
    found = find_learning_rate(run, 60)
    assert found.held_at in range(90, 130)  # the end of the warmup
    assert 1e-4 < 1e-4 * found.suggestion < 1e-1
    found.draw(tmp_path / "check" / "rates.png")
    assert (tmp_path / "check" / "rates.png").stat().st_size > 10_000
    learned = run_of(mlp(), optimizer=optax.adam(1e-4 * found.suggestion))
    losses = [train_on_one_batch(one, 100).losses[-1] for one in (run, learned)]
    assert losses[1] < 0.5 * losses[0]


@pytest.mark.slow
def test_the_range_test_is_refused_where_the_loss_says_nothing():
    row = next(row for row in UNSUPERVISED if row.name == "gan")
    with pytest.raises(jdl.Error, match="does not measure progress"):
        find_learning_rate(of_table(row), 20)
    with pytest.raises(jdl.Error, match="--check-steps"):
        find_learning_rate(of_table(row), 1)
    with pytest.raises(jdl.Error, match="names the metric"):
        find_learning_rate(replace(of_table(row), best="max beauty"), 20)


def test_a_loss_that_falls_until_a_nan_is_not_told_to_take_a_larger_rate():
    told = [
        str(LearningRates([1.0, f], [2.0, 1.0], [2.0, 1.0], 1.0, None, None, 1.0)) for f in ENDS
    ]
    assert ["a larger rate" in text for text in told] == [False, True]
    assert "no longer finite" in told[0]


@pytest.mark.slow
def test_the_axis_of_the_losses_holds_negative_ones():
    assert loss_limits([2.0, 1.0, 9.0]) == (0.0, 3.0)
    assert loss_limits([-3.0, -5.0]) == (-5.0, -2.0)
