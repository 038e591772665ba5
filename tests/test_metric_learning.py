"""Metric learning against plain loops: triplet loss, ArcFace, verification metrics, the ORL faces.

Seen to fail: with a row as its own positive, and with padding as a negative; without the mask of
the metrics; with the margin subtracted from the angle; with the root's gradient at a distance of 0.
"""

import hashlib
import math
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

import jdl
from jdl import metrics
from jdl.data import orl_faces
from jdl.data.fetch import PACKAGES, Package, fetch
from jdl.models.mlp import MLP
from jdl.objectives import arcface, triplet
from jdl.objectives.metric_learning import with_margin

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
CODES = RNG.normal(size=(14, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 0, 3, 1, 4, 4, 2, 1], np.int32)
VERIFICATION = {
    "auc": metrics.verification_auc,
    "eer": metrics.equal_error_rate,
    "tar": partial(metrics.true_accept_rate, false_accepts=0.1),
    "recall": metrics.recall_at_1,
}


def identity():
    """A model whose embeddings are its inputs."""
    return jdl.Model(lambda key, x: {}, lambda params, x: x)


def expected(codes, labels):
    """The four metrics by scikit-learn's curve, and by a loop."""
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    cosines = unit @ unit.T
    first, second = np.triu_indices(len(codes), 1)
    same = labels[first] == labels[second]
    false, true, _ = roc_curve(same, cosines[first, second], drop_intermediate=False)
    closest = np.argmin(np.abs(1 - true - false)[1:]) + 1
    hits = [
        labels[max((j for j in range(len(codes)) if j != i), key=lambda j, i=i: cosines[i, j])]
        == labels[i]
        for i in range(len(codes))
        if (labels == labels[i]).sum() > 1
    ]
    return {
        "auc": roc_auc_score(same, cosines[first, second]),
        "eer": (1 - true + false)[closest] / 2,
        "tar": true[false <= 0.1].max(),
        "recall": np.mean(hits),
    }


@pytest.mark.parametrize("name", VERIFICATION)
def test_verification_is_over_all_pairs_of_all_batches(name):
    whole = expected(CODES, LABELS)[name]
    mask = np.array([True] * 4 + [False])
    metric = None
    for start in range(0, 14, 4):
        rows = slice(start, start + 4)
        code, y = np.full((5, 3), 9.0, np.float32), np.zeros(5, np.int32)
        real = len(CODES[rows])
        code[:real], y[:real] = CODES[rows], LABELS[rows]
        batch = {"y": y, "mask": mask & (np.arange(5) < real)}
        part = VERIFICATION[name]({"code": code}, batch)
        metric = part if metric is None else metric + part
    assert metric.on_host().value() == pytest.approx(whole, abs=1e-12)


def test_without_pairs_of_both_kinds_there_is_no_rate():
    for labels in (np.zeros(3, np.int32), np.arange(3, dtype=np.int32)):
        for name in ("auc", "eer", "tar"):
            metric = VERIFICATION[name]({"code": CODES[:3]}, {"y": labels})
            assert math.isnan(metric.on_host().value())
    with pytest.raises(jdl.Error, match="column code"):
        metrics.verification_auc({"label": LABELS}, {"y": LABELS})


def hardest(codes, labels, margin):
    """The loss of each row that has a triplet."""
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    losses = []
    for i, label in enumerate(labels):
        away = np.linalg.norm(unit - unit[i], axis=1)
        positive = [away[j] for j in range(len(unit)) if j != i and labels[j] == label]
        negative = [away[j] for j in range(len(unit)) if labels[j] != label]
        if positive and negative:
            excess = max(positive) - min(negative)
            loss = np.log1p(np.exp(excess)) if margin is None else max(0.0, margin + excess)
            losses.append(loss)
    return losses


@pytest.mark.parametrize("margin", [0.2, 1.0, None])
def test_the_triplet_loss_is_that_of_the_hardest_rows(margin):
    padded = {
        "x": jnp.asarray(np.concatenate([CODES, 9 * np.eye(3, dtype=np.float32)])),
        "y": jnp.asarray(np.append(LABELS, [3, 7, 7]).astype(np.int32)),
        "mask": jnp.arange(17) < 14,
    }
    objective = triplet(identity(), margin)
    loss = objective.loss(objective.init(KEY, padded), padded, KEY, True).loss
    losses = hardest(CODES, LABELS, margin)
    assert loss.count == 14
    assert len(losses) == 13  # one is alone in its class
    np.testing.assert_allclose(loss.total, sum(losses), rtol=1e-5)


@pytest.mark.parametrize("margin", [0.2, None])
def test_equal_rows_and_rows_without_a_triplet_have_finite_gradients(margin):
    for y in ([0, 0, 1, 1], [0, 1, 2, 3], [0, 0, 0, 0]):
        batch = {"x": jnp.ones((4, 3)), "y": jnp.asarray(y, jnp.int32)}
        objective = triplet(MLP(2, hidden=(4,)), margin)
        variables = objective.init(KEY, batch)

        def total(params, objective=objective, batch=batch, rest=variables):
            return objective.loss({**rest, "params": params}, batch, KEY, True).loss.total

        for leaf in jax.tree.leaves(jax.grad(total)(variables["params"])):
            assert jnp.isfinite(leaf).all()


@pytest.mark.slow
def test_arcface_enlarges_the_angle_to_the_own_class():
    angles = np.linspace(0.01, math.pi - 0.6, 20, dtype=np.float32)
    cosines = jnp.stack([jnp.cos(angles), jnp.full(20, 0.3)], 1)
    found = with_margin(cosines, jnp.zeros(20, jnp.int32), 0.5)
    np.testing.assert_allclose(found[:, 0], np.cos(angles + 0.5), atol=2e-6)
    np.testing.assert_array_equal(found[:, 1], cosines[:, 1])
    line = jnp.linspace(-1, 1, 201)[:, None]
    assert (jnp.diff(with_margin(line, jnp.zeros(201, jnp.int32), 0.5)[:, 0]) > 0).all()
    slope = jax.grad(lambda c: with_margin(c, jnp.zeros(1, jnp.int32), 0.5).sum())
    assert all(jnp.isfinite(slope(jnp.full((1, 1), c))).all() for c in (-1.0, 1.0))


def test_arcface_is_the_cross_entropy_of_scaled_cosines():
    batch = {"x": jnp.asarray(CODES), "y": jnp.asarray(LABELS)}
    objective = arcface(identity(), classes=6, scale=8.0, margin=0.3)
    variables = objective.init(KEY, batch)
    centers = np.asarray(variables["params"]["centers"], np.float64)
    unit = CODES / np.linalg.norm(CODES, axis=1, keepdims=True)
    cosines = unit @ (centers / np.linalg.norm(centers, axis=1, keepdims=True)).T
    own = np.arange(14), LABELS
    cosines[own] = np.cos(np.arccos(cosines[own]) + 0.3)
    loss = objective.loss(variables, batch, KEY, True).loss
    losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(8 * cosines), LABELS)
    np.testing.assert_allclose(loss.value(), losses.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("objective", "labels", "message"),
    [
        (lambda: arcface(identity(), 4), LABELS, "0 to 4, but the model has 4 outputs"),
        (lambda: triplet(identity()), LABELS.astype(np.float32), "whole numbers"),
        (lambda: triplet(identity(), -1), LABELS, "margin, a distance, must be 0 or more"),
        (lambda: arcface(identity(), 6, margin=2), LABELS, "from 0 to below pi/2"),
        (lambda: arcface(identity(), 1), LABELS, "classes, their number"),
        (lambda: triplet(MLP(1)), LABELS, "embeddings .B, D. of 2 numbers or more"),
    ],
)
def test_what_cannot_work_is_refused(objective, labels, message):
    data = jdl.data.arrays(x=CODES, y=labels).batches(7)
    with pytest.raises(jdl.Error, match=message):
        objective().check(data.spec, data.bounds)


def pgm(pixels, as_text):
    """A photo's file, as it is, or once copied as text."""
    content = b"P5\n92 112\n255\n" + pixels.tobytes()
    return content.replace(b"\n", b"\r\n") if as_text else content


@pytest.mark.slow
def test_the_faces_are_read_from_files_that_were_copied_as_text_too(tmp_path, monkeypatch):
    pixels = RNG.integers(0, 256, (400, 112, 92)).astype(np.uint8)
    pixels[:, :, 0::13] = 10  # bytes that a copy as text changes
    folder = tmp_path / "package" / "faces"
    for photo in range(400):
        file = folder / f"s{photo // 10 + 1}" / f"{photo % 10 + 1}.pgm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pgm(pixels[photo], photo % 3 == 0))
    joined = PACKAGES["orl_faces"].joined
    whole = b"".join((folder / part).read_bytes() for part in joined["faces.pgm"])
    sums = {"faces.pgm": hashlib.sha256(whole).hexdigest()}
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))
    package = Package("pip", "faces==1", "package/faces", "nobody", sums, joined)
    monkeypatch.setitem(PACKAGES, "orl_faces", package)
    archive = shutil.make_archive(str(tmp_path / "faces"), "zip", tmp_path, "package")
    fetch("orl_faces", Path(archive))
    faces = orl_faces()
    smaller = pixels.reshape(400, 56, 2, 46, 2).mean((2, 4))
    np.testing.assert_array_equal(faces.columns["x"][..., 0], np.round(smaller))
    np.testing.assert_array_equal(faces.columns["y"], np.arange(400) // 10)
