"""The gradient step: exact on ragged batches, however they are cut; and averages of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.learners.compilation import CompiledLearner
from jdl.models.cnn import CNN
from jdl.models.mlp import MLP

MODEL = MLP(3, hidden=(16,))
X = jax.random.normal(jax.random.key(0), (8, 5))
BATCH = {
    "x": X,
    "y": jnp.arange(8, dtype=jnp.int32) % 3,
    "mask": jnp.arange(8) < 5,
}  # ragged: 5 of 8 rows are real


def jitted(learner):
    """Compiled, but not donated: tests look at old states too."""
    return CompiledLearner(learner, jax.jit(learner.init), jax.jit(learner.step))


def one_step(batch, **options):
    learner = jitted(jdl.descent(jdl.objectives.classify(MODEL), optax.sgd(1.0), **options))
    return learner.step(learner.init(jax.random.key(1), batch), batch)


@pytest.mark.slow
def test_padding_and_micro_batches_leave_the_gradient_as_it_is():
    real = {name: column[:5] for name, column in BATCH.items()}
    plain, metrics = one_step(real)
    for parts in (1, 2, 4, 8):
        state, found = one_step(BATCH, micro_batches=parts)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain.params, state.params
        )
        for name in metrics:
            assert found[name].value() == pytest.approx(float(metrics[name].value()), rel=1e-5), (
                name
            )


@pytest.mark.slow
def test_a_micro_batch_of_padding_leaves_the_statistics_alone():
    batch = {"x": jnp.ones((4, 4, 4, 1)), "y": jnp.zeros(4, jnp.int32), "mask": jnp.arange(4) < 1}
    objective = jdl.objectives.classify(CNN(2, blocks=((2, 1),), dense=(), batch_norm=True))
    learner = jitted(jdl.descent(objective, optax.sgd(0.1), micro_batches=4))
    one = {name: column[:1] for name, column in batch.items()}
    single = jitted(jdl.descent(objective, optax.sgd(0.1)))
    state, _ = learner.step(learner.init(jax.random.key(0), batch), batch)
    expected, _ = single.step(single.init(jax.random.key(0), one), one)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        state.model_state,
        expected.model_state,
    )


def test_a_batch_that_is_all_padding_changes_nothing():
    state, metrics = one_step({**BATCH, "mask": jnp.zeros(8, bool)})
    start = jdl.descent(jdl.objectives.classify(MODEL), optax.sgd(1.0))
    jax.tree.map(
        np.testing.assert_array_equal, state.params, start.init(jax.random.key(1), BATCH).params
    )
    assert metrics["grad_norm"].value() == 0


def test_norms_are_euclidean():
    learner = jitted(jdl.descent(jdl.objectives.classify(MODEL), optax.sgd(0.5)))
    state = learner.init(jax.random.key(1), BATCH)
    new, metrics = learner.step(state, BATCH)

    def norm(tree):
        return np.sqrt(
            sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(tree))
        )

    moved = jax.tree.map(lambda a, b: a - b, new.params, state.params)
    assert metrics["update_norm"].value() == pytest.approx(norm(moved), rel=1e-4)
    assert metrics["grad_norm"].value() == pytest.approx(norm(moved) / 0.5, rel=1e-4)
    assert metrics["param_norm"].value() == pytest.approx(norm(new.params), rel=1e-5)


def test_batches_that_cannot_be_cut_are_refused():
    with pytest.raises(jdl.Error, match="8 rows cannot be cut into 3"):
        one_step(BATCH, micro_batches=3)
    with pytest.raises(jdl.Error, match="at least 1"):
        jdl.descent(jdl.objectives.classify(MODEL), optax.sgd(1.0), micro_batches=0)


def test_ema_is_the_running_average_and_leaves_the_training_alone():
    plain = jdl.descent(jdl.objectives.classify(MODEL), optax.adam(1e-2))
    plain, learner = jitted(plain), jitted(jdl.ema(plain, 0.9))
    state, inner = learner.init(jax.random.key(1), BATCH), plain.init(jax.random.key(1), BATCH)
    average = inner.params
    for t in range(1, 5):
        state, _ = learner.step(state, BATCH)
        inner, _ = plain.step(inner, BATCH)
        d = min(0.9, (1 + t) / (10 + t))
        average = jax.tree.map(lambda old, new, d=d: d * old + (1 - d) * new, average, inner.params)
    jax.tree.map(np.testing.assert_array_equal, state.params, inner.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        learner.eval_variables(state)["params"],
        average,
    )
    with pytest.raises(jdl.Error, match="below 1"):
        jdl.ema(plain, 1.0)


def test_schedule_free_is_evaluated_at_the_average_of_its_fastest_iterates():
    """With SGD at a constant rate it is the plain mean of all iterates (Defazio et al., 2024)."""
    optimizer = optax.contrib.schedule_free(optax.sgd(0.1), 0.1, b1=0.9)
    plain = jdl.descent(
        jdl.objectives.classify(MODEL), optax.chain(optax.clip_by_global_norm(1.0), optimizer)
    )
    learner = jitted(jdl.schedule_free(plain))
    state, iterates = learner.init(jax.random.key(1), BATCH), []
    for _ in range(5):
        state, _ = learner.step(state, BATCH)
        iterates.append(state.opt_state[1].z)
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *iterates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        learner.eval_variables(state)["params"],
        mean,
    )
    other = jdl.schedule_free(jdl.descent(jdl.objectives.classify(MODEL), optax.sgd(0.1)))
    state = jitted(other).init(jax.random.key(1), BATCH)
    with pytest.raises(jdl.Error, match="schedule_free_adamw: this learner has 0"):
        other.eval_variables(state)


@pytest.mark.slow
def test_dropout_differs_from_step_to_step_and_the_key_stays():
    learner = jitted(
        jdl.descent(jdl.objectives.classify(MLP(3, hidden=(64,), dropout=0.5)), optax.sgd(0.0))
    )
    first = learner.init(jax.random.key(1), BATCH)
    second, metrics = learner.step(first, BATCH)
    _, again = learner.step(first, BATCH)
    _, later = learner.step(second, BATCH)
    assert metrics["loss"].value() == again["loss"].value() != later["loss"].value()
    assert (jax.random.key_data(first.key) == jax.random.key_data(second.key)).all()
