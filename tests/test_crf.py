"""A linear-chain CRF against sums over all paths, written out; its mask, constraints, errors.

Seen to fail: without the scores of the last tag; with padding steps that count; with unknown labels
that exclude every tag; with I-x allowed after every tag but its own.
"""

from functools import cache, partial
from itertools import pairwise, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.layers.crf import Transitions, log_partition, viterbi
from jdl.models.mlp import MLP
from jdl.models.rnn import RNN
from jdl.objectives import classify, crf

ROWS, STEPS, TAGS = 4, 4, 3
LENGTHS = np.asarray([4, 2, 1, 0])
LOGITS = 2 * jax.random.normal(jax.random.key(0), (ROWS, STEPS, TAGS))
REAL = jnp.arange(STEPS)[None] < LENGTHS[:, None]
CHAIN = Transitions(
    *(jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(3, 3), (3,), (3,)]))
)
BIO = ("B-a", "B-b", "I-a", "I-b", "O")
Y = jnp.asarray([[4, 1, 3, 0], [0, 2, 4, 4], [4, 0, 2, 2], [1, 1, 1, 1]])
BATCH = {
    "x": jax.random.normal(jax.random.key(5), (ROWS, STEPS, 6)),
    "y": Y,
    "length": jnp.asarray(LENGTHS),
    "mask": jnp.asarray([True, True, True, True]),
}


class Steps(MLP):
    """The same layers at each step."""

    def __call__(self, x):
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)


def score(logits, path, chain):
    """The score of one path, by its definition."""
    inner = sum(chain.between[a, b] for a, b in pairwise(path))
    ends = chain.start[path[0]] + chain.end[path[-1]]
    return float(sum(logits[t, tag] for t, tag in enumerate(path)) + inner + ends)


def scores(row, logits=LOGITS, chain=CHAIN):
    """All paths of a row, and their scores."""
    logits, chain = np.asarray(logits, np.float64), jax.tree.map(np.asarray, chain)
    paths = list(product(range(logits.shape[-1]), repeat=int(LENGTHS[row])))
    return paths, np.asarray([score(logits[row], path, chain) for path in paths])


@pytest.mark.parametrize("row", [0, 1, 2])
def test_partition_and_best_path_are_those_of_all_paths(row):
    paths, each = scores(row)
    total = jax.jit(log_partition)(LOGITS, REAL, CHAIN)
    np.testing.assert_allclose(total[row], np.logaddexp.reduce(each), rtol=1e-6)
    found = jax.jit(viterbi)(LOGITS, REAL, CHAIN)[row]
    assert tuple(found[: LENGTHS[row]].tolist()) == paths[each.argmax()]
    assert not found[LENGTHS[row] :].any()


def variables_of(objective, batch=BATCH):
    """Initial variables with random transitions."""
    variables = jax.jit(objective.init)(jax.random.key(1), batch)
    draw = (
        jax.random.normal(jax.random.key(n), x.shape)
        for n, x in enumerate(variables["params"]["crf"].values())
    )
    chain = dict(zip(variables["params"]["crf"], draw, strict=True))
    return {**variables, "params": {**variables["params"], "crf": chain}}


@cache
def evaluated():
    """The objective of BIO tags, its variables, its model's logits, and its predictions."""
    objective = crf(Steps(5), BIO)
    variables = variables_of(objective)
    logits = Steps(5).apply({"params": variables["params"]["model"]}, BATCH["x"])
    return objective, variables, logits, jax.jit(objective.predict)(variables, BATCH)


def test_loss_and_marginals_are_sums_over_paths_with_the_known_labels():
    """Of unknown labels, -1, all are possible; and rows without steps count nothing."""
    objective, variables, logits, predictions = evaluated()
    batch = {**BATCH, "y": Y.at[0, 1].set(-1)}
    loss = jax.jit(partial(objective.loss, train=False))(variables, batch, jax.random.key(0)).loss
    chain = Transitions(**variables["params"]["crf"])
    nats, known = 0.0, 0
    for row in range(3):
        paths, each = scores(row, logits, chain)
        labels = np.asarray(batch["y"])[row, : LENGTHS[row]]
        fits = [all(y in (-1, tag) for y, tag in zip(labels, p, strict=True)) for p in paths]
        nats += np.logaddexp.reduce(each) - np.logaddexp.reduce(each[fits])
        known += int((labels >= 0).sum())
        share = np.exp(each - np.logaddexp.reduce(each))
        for t in range(LENGTHS[row]):
            marginal = [share[[p[t] == k for p in paths]].sum() for k in range(5)]
            np.testing.assert_allclose(predictions["probability"][row, t], marginal, atol=1e-6)
    assert known == 6
    np.testing.assert_allclose([loss.total, loss.count], [nats, known], rtol=1e-5)


def test_bio_tags_are_predicted_only_where_they_may_stand():
    """The best of the allowed paths, though the best of all is none."""
    _, variables, logits, predictions = evaluated()
    chain = Transitions(**variables["params"]["crf"])
    broken = 0
    for row in range(3):
        paths, each = scores(row, logits, chain)
        allowed = [
            all(
                BIO[tag][0] != "I" or BIO[before][1:] == BIO[tag][1:]
                for before, tag in pairwise((4, *path))
            )
            for path in paths
        ]
        broken += not allowed[each.argmax()]
        best = paths[np.where(allowed, each, -np.inf).argmax()]
        assert tuple(predictions["label"][row, : LENGTHS[row]].tolist()) == best
    assert broken


def test_without_transitions_it_is_the_cross_entropy_of_each_step():
    batch = {**BATCH, "y": Y.at[0, 1].set(-1)}
    losses = []
    for make in (crf, classify):
        objective = make(Steps(5))
        variables = jax.jit(objective.init)(jax.random.key(1), batch)
        out = jax.jit(partial(objective.loss, train=True))(variables, batch, jax.random.key(0))
        losses.append((out.loss.total, out.loss.count))
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_gradients_are_finite_and_those_of_padding_are_0():
    objective = crf(Steps(5))
    variables = variables_of(objective)

    def loss(variables, x, batch):
        return objective.loss(variables, {**batch, "x": x}, jax.random.key(0), True).loss.total

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    of_params, of_x = gradient(variables, BATCH["x"], BATCH)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((of_params, of_x)))
    assert ((of_x != 0).any(-1) == REAL).all()
    nothing = {**BATCH, "length": jnp.zeros(ROWS, jnp.int32)}
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient(variables, BATCH["x"], nothing)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: crf(Steps(3), ("O", "B-a", "person")), "'person' is no BIO tag"),
        (lambda: crf(Steps(2), ("O", "I-a")), "no B-a"),
        (lambda: crf(Steps(3), BIO).check(BATCH, {}), "5 tags, but the model has 3 outputs"),
        (lambda: crf(RNN(5, (4,))).check(BATCH, {}), "return_sequences=True"),
        (lambda: crf(Steps(5)).check(BATCH, {"y": (-1, 5)}), "5 outputs"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(jdl.Error, match=message):
        make()
