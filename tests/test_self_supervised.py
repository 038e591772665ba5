"""SimCLR, BYOL and masked autoencoders by their formulas; their target network; probes.

Seen to fail: NT-Xent with a code as its own negative, and with padding as a negative; BYOL with the
target of the same view, and with the other view's prediction in place of the target; SimCLR in one
direction; a target that follows the old parameters; votes of neighbors that do not depend on the
temperature.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax
from sklearn.neighbors import KNeighborsClassifier

import jdl
from jdl.metrics import knn_probe, linear_probe
from jdl.models.cnn import CNN
from jdl.models.mae import MaskedAutoencoder
from jdl.models.mlp import MLP
from jdl.models.transformer import TransformerConfig
from jdl.models.vit import ViT
from jdl.objectives import byol, masked_patches, probe_scores, simclr
from jdl.objectives.simclr import nt_xent
from jdl.objectives.views import two_views
from jdl.parallel import elastic

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (8, 5))
MASK = jnp.asarray([1, 1, 0, 1, 1, 1, 0, 1], bool)
BATCH = {"x": X, "mask": MASK, "id": jnp.arange(8)}
NOISE = jdl.data.gaussian_noise(0.5)
ONE = TransformerConfig(width=8, depth=1, heads=2)


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 2


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def of_byol(**heads):
    given = {"projection": MLP(3), "prediction": MLP(3), **heads}
    return byol(MLP(4), augment=NOISE, **given)


@pytest.mark.slow
def test_nt_xent_is_the_cross_entropy_among_the_other_views_of_real_rows():
    """By a loop, and without padding by Optax's, the mean of both directions."""
    one, two = (unit(np.random.default_rng(k).normal(size=(8, 3))) for k in (2, 3))
    loss = jax.jit(nt_xent)
    found = loss(*map(jnp.float32, (one, two)), 0.3, MASK)
    for i in np.flatnonzero(MASK):
        others = [two[j] for j in range(8) if MASK[j]]
        own = [j for j in range(8) if MASK[j]].index(i)
        others += [one[j] for j in range(8) if MASK[j] and j != i]
        expected = -log_softmax(np.stack(others) @ one[i] / 0.3)[own]
        assert float(found[i]) == pytest.approx(expected, rel=1e-5)
    both = jnp.concatenate([jnp.float32(one), jnp.float32(two)])
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        reference = optax.losses.ntxent(both, jnp.tile(jnp.arange(8), 2), 0.3)
    ways = (both[:8], both[8:]), (both[8:], both[:8])
    mean = np.mean([loss(a, b, 0.3, jnp.ones(8, bool)) for a, b in ways])
    assert float(mean) == pytest.approx(float(reference), rel=1e-5)


@pytest.mark.slow
def test_simclr_compares_two_views_drawn_by_row_and_predicts_from_the_row_itself():
    """Identity encoders: the loss is that of the two views, both ways."""
    identity = jdl.Model(lambda key, x: {}, lambda params, x: x)
    seen = []

    def view(key, example):
        drawn = jax.random.normal(key, (5,))
        seen.append(drawn.shape)
        return {**example, "x": example["x"] + drawn}

    def loss_of(*augment, train=True):
        objective = simclr(identity, identity, augment, 0.3)
        variables = {"params": {"model": {}, "projection": {}}}
        return jax.jit(objective.loss, static_argnums=3)(variables, BATCH, KEY, train).loss

    loss = loss_of(view, view)
    assert seen == [(5,)] * 4
    assert float(loss.count) == 6
    one, two = (jnp.float32(unit(v["x"])) for v in two_views((view, view), BATCH, KEY))
    assert (one != two).all()
    expected = (nt_xent(one, two, 0.3, MASK) + nt_xent(two, one, 0.3, MASK))[MASK].mean() / 2
    assert float(loss.value()) == pytest.approx(float(expected), rel=1e-5)
    evaluated = loss_of(view, view, train=False).value()
    np.testing.assert_array_equal(evaluated, loss.value())  # views in evaluation too


@pytest.mark.slow
def test_byol_predicts_the_targets_vector_of_the_other_view():
    """The target's gradient is none."""
    objective = byol(MLP(4), MLP(3), MLP(3), NOISE)
    learner = jdl.target_network(jdl.descent(objective, optax.sgd(0.5)), 0.75)
    state = jax.jit(learner.init)(KEY, BATCH)
    new, _ = jax.jit(learner.step)(state, BATCH)  # the target differs from the parameters
    variables = learner.eval_variables(new)

    one, two = (view["x"] for view in two_views((NOISE,), BATCH, KEY))

    def apply(x, params, *names):
        out = np.asarray(x, np.float64)
        for name in names:
            dense = params[name]["Dense_0"]
            out = out @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
        return unit(out)[np.asarray(MASK)]

    predicted, target = (
        [apply(x, params, *names) for x in (one, two)]
        for params, names in (
            (new.params, ("model", "projection", "prediction")),
            (variables["target"]["params"], ("model", "projection")),
        )
    )
    output = jax.jit(objective.loss, static_argnums=3)(variables, BATCH, KEY, False)
    both_ways = zip(predicted, reversed(target), strict=True)
    expected = sum(np.square(one - other).sum(1).mean() for one, other in both_ways)
    assert float(output.loss.value()) == pytest.approx(expected, rel=1e-5)
    spread = 1 - np.square(target[0].mean(0)).sum()
    assert float(output.metrics["spread"].value()) == pytest.approx(spread, rel=1e-5)
    jax.tree.map(
        lambda target, old, now: np.testing.assert_allclose(target, 0.75 * old + 0.25 * now, 1e-6),
        variables["target"]["params"],
        state.params,
        new.params,
    )

    def of_target(params):
        target = {**variables["target"], "params": params}
        return objective.loss({**variables, "target": target}, BATCH, KEY, True).loss.total

    slope = jax.jit(jax.grad(of_target))(variables["target"]["params"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slope))


@pytest.mark.slow
def test_the_target_moves_in_elastic_runs_and_averages_batch_statistics():
    """Elastic learners keep no model state but BatchNorm's statistics: the wrapper moves it."""
    x = np.random.default_rng(0).normal(size=(16, 4, 4, 1))
    data = jdl.data.arrays(x=x.astype(np.float32)).shuffled(8, 0)
    encoder = CNN(4, ((2, 1),), dense=(), batch_norm=True)
    objective = byol(encoder, MLP(3), MLP(3), NOISE)
    learner = jdl.target_network(jdl.descent(objective, optax.sgd(0.1)), 0.75)
    run = elastic(learner, data, 2)
    state = run.init(jax.random.key(0), data[0])
    before = jax.tree.map(np.asarray, learner.eval_variables(state))
    state = run.step(state, next(data.read()))[0]
    after = jax.tree.map(np.asarray, learner.eval_variables(state))
    for name in ("params", "batch_stats"):
        jax.tree.map(
            lambda old, now, target: np.testing.assert_allclose(
                target, 0.75 * old + 0.25 * now, rtol=1e-5, atol=1e-7
            ),
            before[name],
            after[name],
            after["target"][name],
        )
    assert (after["target"]["batch_stats"]["model"]["BatchNorm_0"]["mean"] != 0).any()


def test_byol_without_a_target_network_is_refused_before_anything_is_written(tmp_path):
    data = jdl.data.arrays(x=np.asarray(X)).batches(4)
    learner = jdl.descent(of_byol(), optax.sgd(0.1))
    run = jdl.Run(Config(name="forgotten"), learner, data, test=data)
    with pytest.raises(jdl.Error, match=r"jdl\.target_network\(jdl\.descent"):
        jdl.fit(run, jdl.Options(root=tmp_path / "runs", quiet=True))
    assert not (tmp_path / "runs").exists()
    twice = jdl.target_network(jdl.target_network(learner))
    with pytest.raises(jdl.Error, match="wrap it only once"):
        jax.eval_shape(twice.init, KEY, BATCH)


REFUSED = {
    "no view": (lambda: simclr(MLP(4), MLP(3), ()), "give transforms of a row"),
    "batch": (lambda: simclr(MLP(4), MLP(3), jdl.data.mixup(2)), "whole batch"),
    "temperature": (lambda: simclr(MLP(4), MLP(3), NOISE, 0), "above 0"),
    "decay": (lambda: jdl.target_network(jdl.descent(of_byol(), optax.sgd(1)), 1), "below 1"),
    "features": (
        lambda: simclr(jdl.Model(lambda key, x: {}, lambda p, x: x), MLP(3), NOISE).check(
            {"x": jnp.ones((2, 4, 4, 1))}, {}
        ),
        r"let it pool",
    ),
    "width": (lambda: of_byol(prediction=MLP(2)).check(BATCH, {}), "as wide as the projection, 3"),
    "ratio": (lambda: masked_patches(MaskedAutoencoder(4, ONE), 4, 1.0), "below 1"),
    "all hidden": (
        lambda: masked_patches(MaskedAutoencoder(4, ONE), 4, 0.9).check(
            {"x": jnp.ones((2, 8, 8, 1))}, {}
        ),
        "hides all or none",
    ),
    "patch": (
        lambda: masked_patches(MaskedAutoencoder(2, ONE), 4).check(
            {"x": jnp.ones((2, 8, 8, 1))}, {}
        ),
        "same patch_size",
    ),
    "no images": (
        lambda: masked_patches(MaskedAutoencoder(4, ONE), 4).check({"x": jnp.ones((2, 8))}, {}),
        "takes images",
    ),
    "no encoder": (lambda: masked_patches(MLP(4), 4), "methods? encode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learnt_is_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(jdl.Error, match=message):
        make()


@pytest.mark.slow
def test_a_masked_autoencoder_sees_no_hidden_pixel_and_is_judged_by_them_alone():
    model = MaskedAutoencoder(4, ONE, replace(ONE, width=4))
    objective = masked_patches(model, 4, 0.75)
    x = jax.random.normal(jax.random.key(4), (3, 8, 16, 2))
    batch = {"x": x, "mask": jnp.asarray([True, True, False])}
    variables = jax.jit(objective.init)(KEY, batch)
    visible = jnp.asarray([[1, 6], [0, 7], [2, 3]])
    apply = jax.jit(model.apply)
    out = apply(variables, batch["x"], visible)
    assert out.shape == (3, 8, 32)

    def changed(place):  # of the first row
        top, left = 4 * (place // 4), 4 * (place % 4)
        return apply(variables, batch["x"].at[0, top : top + 4, left : left + 4].add(1), visible)

    for place in range(8):
        assert bool((changed(place) == out).all()) == (place not in (1, 6))
    swapped = apply(variables, batch["x"], visible[:, ::-1])
    np.testing.assert_allclose(swapped, out, atol=1e-5)

    output = jax.jit(objective.loss, static_argnums=3)(variables, batch, KEY, True)
    order = objective._orders(batch, jdl.stream(KEY, "patches"))
    out = np.asarray(apply(variables, batch["x"], order[:, :2]))
    patches = np.asarray(batch["x"]).reshape(3, 2, 4, 4, 4, 2).swapaxes(2, 3).reshape(3, 8, 32)
    hidden = [(i, place) for i in range(2) for place in range(8) if place not in order[i, :2]]
    expected = np.mean([np.square(out[i, place] - patches[i, place]) for i, place in hidden])
    assert float(output.loss.value()) == pytest.approx(float(expected), rel=1e-5)
    assert len({tuple(row.tolist()) for row in order}) == 3


@pytest.mark.slow
def test_the_encoder_of_a_masked_autoencoder_is_a_vision_transformer():
    config = replace(ONE, rotary=False)
    model, vit = MaskedAutoencoder(4, config), ViT(3, 4, config)
    x = jax.random.normal(jax.random.key(4), (2, 8, 8, 1))
    objective = masked_patches(model, 4, 0.5)
    variables = jax.jit(objective.init)(KEY, {"x": x})
    head = jax.jit(vit.init)(jax.random.key(1), x)["params"]["head"]
    logits = jax.jit(vit.apply)({"params": {**variables["params"]["encoder"], "head": head}}, x)
    code = jax.jit(objective.predict)(variables, {"x": x})["code"]
    np.testing.assert_allclose(logits, code @ head["kernel"] + head["bias"][None], atol=1e-5)


def features(rows, seed=0):
    """Features of three classes, of which two coordinates of five tell a little."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    codes = rng.normal(size=(rows, 5)).astype(np.float32)
    codes[:, :2] += 1.5 * np.asarray([[0, 1], [1, 0], [-1, -1]])[labels]
    return codes, labels


def test_the_knn_probe_is_scikit_learns_with_those_weights():
    rows, others = features(60), features(90, 1)
    for temperature in (0.07, 10.0):  # of 60 neighbors the last says little but for its weight
        weights = partial(lambda t, distance: np.exp((1 - distance) / t), temperature)
        reference = KNeighborsClassifier(60, metric="cosine", weights=weights).fit(*rows)
        found = knn_probe(*rows, *others, k=60, temperature=temperature)
        assert found == pytest.approx(reference.score(*others))
        assert 0.5 < found < 1
    assert np.isnan(knn_probe(rows[0] * np.nan, rows[1], *others, k=7))
    with pytest.raises(jdl.Error, match="from 1 to 60"):
        knn_probe(*rows, *others, k=61)


def test_the_linear_probe_weighs_coordinates_whatever_their_scale():
    rows, others = features(60), features(900, 1)
    found = linear_probe(*rows, *others)
    assert 0.7 < found < 0.9  # the best rule of the two coordinates alone has 0.82
    scale = np.asarray([1e-3, 1e3, 1, 1, 1])
    assert linear_probe(rows[0] * scale, rows[1], others[0] * scale, others[1]) == found
    assert np.isnan(linear_probe(rows[0] * np.nan, rows[1], *others))
    assert linear_probe(rows[0][:4], rows[1][:4], *others) > 0.4  # one row of two classes
    with pytest.raises(jdl.Error, match="at least two classes"):
        linear_probe(rows[0], 0 * rows[1], *others)
    with pytest.raises(jdl.Error, match="one label for each row"):
        linear_probe(*rows, others[0], others[1][:5])


@pytest.mark.slow
def test_probe_scores_are_of_the_encoders_features_of_all_real_rows():
    objective = simclr(MLP(4), MLP(3), NOISE)
    rows, others = features(60), features(50, 1)
    loaders = [jdl.data.arrays(x=x, y=y).batches(32) for x, y in (rows, others)]
    variables = jax.jit(objective.init)(KEY, loaders[0][0])
    dense = variables["params"]["model"]["Dense_0"]
    codes = [x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]) for x, _ in (rows, others)]
    scores = probe_scores(objective, *loaders, k=5)(variables)
    assert scores == {
        "linear_probe": linear_probe(codes[0], rows[1], codes[1], others[1]),
        "knn_probe": knn_probe(codes[0], rows[1], codes[1], others[1], k=5),
    }
    classify = jdl.objectives.classify(MLP(3))
    variables = jax.jit(classify.init)(KEY, loaders[0][0])
    with pytest.raises(jdl.Error, match="column code"):
        probe_scores(classify, *loaders)(variables)
