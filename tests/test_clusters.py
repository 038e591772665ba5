"""Clusters against scikit-learn and formulas written out.

Seen to fail: centres by rows of padding, targets without each centre's share, a start at another step, clusters in the
order that labels happen to have; codes told apart from rows of padding, or from those of one device alone.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.cluster import KMeans

import jdl
from jdl.layers import ROWS
from jdl.learners.clustering import k_means
from jdl.metrics.clusters import agreement, scores
from jdl.models.autoencoder import Autoencoder
from jdl.objectives.clustering import BEGUN, CENTRES, soft_assignment, target_distribution, info_nce

RNG = np.random.default_rng(0)
PLACES = np.array([[0, 0], [4, 0], [0, 4], [5, 5]], np.float32)
LABELS = np.arange(80) % 4
POINTS = (PLACES[LABELS] + 0.3 * RNG.standard_normal((80, 2))).astype(np.float32)


def test_k_means_is_that_of_scikit_learn():
    x = jnp.asarray(np.concatenate([POINTS, np.full((7, 2), 99, np.float32)]))
    centres, spread = jax.jit(
        lambda x: k_means(x, 4, jax.random.key(0), mask=jnp.arange(len(x)) < 80)
    )(x)
    theirs = KMeans(4, n_init=10, random_state=0).fit(POINTS)
    order = (
        np.lexsort(np.round(np.asarray(centres), 1).T),
        np.lexsort(np.round(theirs.cluster_centers_, 1).T),
    )
    np.testing.assert_allclose(centres[order[0]], theirs.cluster_centers_[order[1]], atol=1e-4)
    assert float(spread) == pytest.approx(theirs.inertia_ / 80, rel=1e-4)


def test_nearness_and_its_targets_are_those_of_the_paper():
    codes, centres, spread = RNG.normal(size=(5, 3)), RNG.normal(size=(2, 3)), 0.7
    q = np.array([[1 / (1 + ((z - c) ** 2).sum() / spread) for c in centres] for z in codes])
    q /= q.sum(1, keepdims=True)
    found = soft_assignment(
        jnp.asarray(codes, jnp.float32), jnp.asarray(centres, jnp.float32), jnp.asarray(spread)
    )
    np.testing.assert_allclose(found, q, rtol=1e-5)
    mask = np.array([1, 1, 0, 1, 1], bool)
    p = q**2 / q[mask].sum(0)
    np.testing.assert_allclose(
        target_distribution(found, jnp.asarray(mask)), p / p.sum(1, keepdims=True), rtol=1e-5
    )


def test_what_it_costs_to_tell_codes_apart():
    codes, others = (RNG.normal(size=(8, 3)).astype(np.float32) for _ in range(2))
    mask = np.arange(8) < 5
    near = np.array([[1 / (1 + ((a - b) ** 2).sum()) for b in others] for a in codes])
    costs = -np.log(np.diag(near) / near[:, mask].sum(1))
    np.testing.assert_allclose(info_nce(codes, others, mask), costs, rtol=1e-5)
    parts = (column.reshape(4, 2, *column.shape[1:]) for column in (codes, others, mask))
    found = jax.vmap(info_nce, axis_name=ROWS)(*parts)
    np.testing.assert_allclose(found.ravel(), costs, rtol=1e-5)


def learner(begins, weight=0.1, points=POINTS):
    objective = jdl.objectives.cluster(Autoencoder((2,), 2, hidden=()), 4, weight)
    rows = jdl.data.arrays(x=points, y=LABELS).batches(80)[0]
    return jdl.kmeans_init(jdl.descent(objective, optax.adam(1e-2)), begins, rows), rows


def test_clusters_begin_at_their_step_and_find_the_groups():
    made, rows = learner(begins=40)
    state, step = jax.jit(made.init)(jax.random.key(0), rows), jax.jit(made.step)
    for n in range(60):
        assert bool(state.model_state[BEGUN]["begun"]) == (n >= 40)
        assert bool(state.params[CENTRES].any()) == (n >= 40)
        state, metrics = step(state, rows)
        assert (float(metrics["kl"].value()) > 0) == (n >= 40)
    data = jdl.data.arrays(x=POINTS, y=LABELS).batches(30)
    assert scores(made.objective, data)(made.eval_variables(state)) == {
        "accuracy": 1.0,
        "nmi": 1.0,
        "ari": 1.0,
    }
    said = made.objective.predict(made.eval_variables(state), rows)
    np.testing.assert_array_equal(said["probability"].argmax(-1), said["cluster"])


def test_rows_that_are_all_the_same_stay_finite():
    made, rows = learner(begins=0, points=np.zeros((80, 2), np.float32))
    state, step = jax.jit(made.init)(jax.random.key(0), rows), jax.jit(made.step)
    for _ in range(3):
        state, _ = step(state, rows)
    assert all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.model_state))
    )


def test_what_is_near_comes_nearer():
    made, rows = learner(begins=0, weight=1e4)
    state, step = jax.jit(made.init)(jax.random.key(0), rows), jax.jit(made.step)
    sure = []
    for _ in range(20):
        state, _ = step(state, rows)
        sure.append(
            float(
                made.objective.predict(made.eval_variables(state), rows)["probability"]
                .max(-1)
                .mean()
            )
        )
    assert all(later > before for before, later in pairwise(sure))


def test_contrast_makes_codes_a_map_of_who_is_near_whom():
    """Of points whose neighbours are told, though their numbers say nothing of them."""
    x = RNG.normal(size=(80, 5)).astype(np.float32)
    near = np.stack([x[label == LABELS] for label in LABELS])

    def one_of_its_own(key, example):
        return {"x": jax.random.choice(key, example["near"])}

    model = Autoencoder((5,), 2, hidden=(64, 64))
    objective = jdl.objectives.cluster(model, 4, augment=one_of_its_own, contrast=10.0)
    rows = jdl.data.arrays(x=x, y=LABELS, near=near).batches(80)
    made = jdl.kmeans_init(jdl.descent(objective, optax.adam(1e-2)), 300, rows[0])
    state, step = jax.jit(made.init)(jax.random.key(0), rows[0]), jax.jit(made.step)
    for _ in range(301):
        state, _ = step(state, rows[0])
    assert scores(objective, rows)(made.eval_variables(state))["accuracy"] >= 0.95


def test_rows_are_read_disturbed_and_made_as_they_are():
    """A model that keeps what it reads errs by what `augment` adds; in evaluation, nothing is added."""
    model = Autoencoder((2,), 2, hidden=())
    same = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    variables = {"params": {half: {"out": same} for half in ("encoder", "decoder")}}

    def moved(key, example):
        return {
            **example,
            "x": example["x"] + jax.random.uniform(key) + example["y"].astype(jnp.float32),
        }

    rows = {"x": jnp.zeros((50, 2)), "y": jnp.ones(50, jnp.int32)}
    out = {}
    for train in (True, False):
        loss = jdl.objectives.autoencode(model, augment=moved).loss(
            variables, rows, jax.random.key(0), train
        )
        out[train] = float(loss.loss.value())
    assert out[False] == 0
    assert out[True] == pytest.approx(7 / 3, rel=0.15)  # the mean square of 1 to 2


def test_agreement_does_not_mind_names():
    clusters = np.array([2, 0, 3, 1])[LABELS]
    assert agreement(LABELS, clusters) == {"accuracy": 1.0, "nmi": 1.0, "ari": 1.0}
    clusters[:8] = clusters[8]
    assert agreement(LABELS, clusters)["accuracy"] == pytest.approx(74 / 80)


REFUSED = {
    "at least 2": lambda: jdl.objectives.cluster(Autoencoder((2,), 2), 1),
    "0 or more, and 0.1 and -1": lambda: jdl.objectives.cluster(
        Autoencoder((2,), 2), 4, contrast=-1
    ),
    "give augment or noise": lambda: jdl.objectives.cluster(Autoencoder((2,), 2), 4, contrast=0.1),
    "begins is a step": lambda: jdl.kmeans_init(learner(0)[0], -1, {}),
    "have no 4 centres": lambda: jdl.kmeans_init(learner(0)[0], 0, {"x": POINTS[:3]}).init(
        jax.random.key(0), {"x": jnp.asarray(POINTS)}
    ),
    "a learner of jdl.objectives.clustering": lambda: jdl.kmeans_init(
        jdl.descent(jdl.objectives.autoencode(Autoencoder((2,), 2)), optax.sgd(0.1)),
        0,
        {"x": POINTS},
    ).init(jax.random.key(0), {"x": jnp.asarray(POINTS)}),
    "A cluster and a label a row": lambda: agreement(LABELS, LABELS[:3]),
}


@pytest.mark.parametrize("told", REFUSED)
def test_refuses(told):
    with pytest.raises(jdl.Error, match=told):
        REFUSED[told]()
