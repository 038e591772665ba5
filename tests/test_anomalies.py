"""Anomaly detection: one score of three objectives, ranked as by scikit-learn, and its picture.

Seen to fail: a log_prob that is not negated; padding that is ranked; metrics where no row is
labelled; labels of ten classes that are let in; the lowest scores drawn; rows of padding or
of another order drawn; files of the shape after the transforms.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.metrics
from PIL import Image

import jdl
from jdl.figures import anomalies
from jdl.inspect.predict import predict
from jdl.inspect.restore import TrainedRun
from jdl.metrics import scalars
from jdl.models.autoencoder import Autoencoder
from jdl.models.mlp import MLP
from jdl.models.realnvp import RealNVP
from jdl.objectives import autoencode, deep_svdd, detect_anomalies, normalizing_flow, predict_all
from jdl.train.check import check_run

Y = np.arange(40) % 4 == 0
X = np.random.default_rng(0).normal(size=(40, 3)) * np.where(Y, 2, 1)[:, None]
BATCH = {"x": jnp.asarray(X, jnp.float32), "y": jnp.asarray(Y, jnp.int32)}
BATCH["mask"] = jnp.arange(40) < 36
OBJECTIVES = {
    "reconstruction_error": (autoencode(Autoencoder((3,), 2, hidden=(8,))), 1),
    "distance": (deep_svdd(MLP(4, use_bias=False)), 1),
    "log_prob": (normalizing_flow(RealNVP(2, hidden=(8,))), -1),
}


@pytest.mark.parametrize("column", OBJECTIVES)
def test_the_score_ranks_as_scikit_learn_does(column):
    """AUROC and AUPRC of the rows that are no padding; without y there are none."""
    plain, sign = OBJECTIVES[column]
    objective = detect_anomalies(plain)
    variables = jax.jit(objective.init)(jax.random.key(0), BATCH)
    made = jax.jit(objective.predict)(variables, BATCH)
    score = np.asarray(made["anomaly_score"])
    np.testing.assert_array_equal(score, sign * np.asarray(made[column]))
    evaluate = jax.jit(lambda batch: objective.loss(variables, batch, None, False))
    output, y = evaluate(BATCH), Y[:36]
    found = scalars(output.metrics)
    expected = sklearn.metrics.roc_auc_score(y, score[:36])
    assert found["auroc"] == pytest.approx(expected, rel=1e-6)
    assert expected > 0.6
    expected = sklearn.metrics.average_precision_score(y, score[:36])
    assert found["auprc"] == pytest.approx(expected, rel=1e-6)
    alone = evaluate({name: column for name, column in BATCH.items() if name != "y"})
    assert found.keys() - alone.metrics.keys() == {"auroc", "auprc"}
    assert float(alone.loss.value()) == float(output.loss.value())


def test_the_reconstruction_error_is_the_mean_square_of_what_decode_misses():
    objective, _ = OBJECTIVES["reconstruction_error"]

    @jax.jit
    def errors(key):
        variables = objective.init(key, BATCH)
        x = objective.decode(variables, objective.encode(variables, BATCH), BATCH, None)
        said = objective.predict(variables, BATCH)["reconstruction_error"]
        return said, jnp.square(x - BATCH["x"]).mean(-1)

    said, expected = errors(jax.random.key(0))
    np.testing.assert_allclose(said, expected, rtol=1e-5)


def run_of(objective, x=X, y=Y, transforms=()):
    data = jdl.data.arrays(("normal", "anomaly"), x=x, y=y).map(*transforms)
    learner = jdl.descent(objective, optax.sgd(0.1))
    c = jdl.Config(name="anomalies", steps=1)
    return jdl.Run(c, learner, data.shuffled(8, 0), test=data.batches(8), labels=data.labels)


REFUSED = {
    "labels": (lambda: detect_anomalies(OBJECTIVES["distance"][0]), "y is from 0 to 9"),
    "no score": (
        lambda: detect_anomalies(jdl.objectives.elbo(jdl.models.autoencoder.VAE((3,), 2))),
        "the predictions, which have code: say how",
    ),
    "no predictions": (lambda: detect_anomalies(jdl.Objective()), "Objective predicts nothing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_what_is_wrong(case):
    make, message = REFUSED[case]
    with pytest.raises(jdl.Error, match=message):
        check_run(run_of(make(), np.clip(X, 0, 1), np.arange(40) % 10 if case == "labels" else Y))


def test_the_highest_scores_are_drawn_from_the_highest_on(tmp_path, monkeypatch):
    """Of images of bytes, before the transforms; of any other run nothing is drawn."""

    class Brightness(jdl.Objective):
        def init(self, key, batch):
            return {}

        def predict(self, variables, batch):
            return {"brightness": batch["x"].mean((1, 2, 3))}

    x = np.random.default_rng(0).permutation(40)[:, None, None, None] * np.ones((4, 4, 1))
    plain = run_of(Brightness(), x.astype(np.uint8))
    scored = detect_anomalies(Brightness(), score=lambda p: p["brightness"])
    run = replace(plain, learner=jdl.descent(scored, optax.sgd(0.1)))
    inverted = run.test.dataset.map(lambda key, row: {**row, "x": 1 - row["x"]}).batches(7)
    run = replace(run, test=inverted)
    drawn = []
    monkeypatch.setattr(anomalies, "draw_rows", lambda *given: drawn.append(given) or given[2])
    assert anomalies.draw_anomalies(plain, {}, tmp_path) == []
    shuffled = replace(run, test=None, valid=run.train)
    assert anomalies.draw_anomalies(shuffled, {}, tmp_path) == []
    path = tmp_path / "figures" / "anomalies.png"
    assert anomalies.draw_anomalies(run, {}, tmp_path) == [path]
    ((rows, labels, _),) = drawn
    assert labels == ("normal", "anomaly")
    np.testing.assert_allclose(rows["x"][:, 0, 0, 0] * 255, np.arange(32), atol=1e-3)
    np.testing.assert_array_equal(rows["y"], Y[np.argsort(x[:, 0, 0, 0])[:32]])


def test_files_are_scored_as_they_are_before_the_transforms(tmp_path):
    """Also where a transform changes the shape, as principal components do."""
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
    (data,) = jdl.data.principal_components(jdl.data.arrays(x=images), components=3)
    run = run_of(detect_anomalies(OBJECTIVES["distance"][0]), images, Y, data.transforms)
    state = jax.jit(run.learner.init)(jax.random.key(0), run.train[0])
    trained = TrainedRun(run, state)
    expected = predict_all(trained.objective, trained.variables, run.test)["anomaly_score"]
    np.savez(tmp_path / "images.npz", x=images[:2])
    Image.fromarray(images[2, ..., 0]).save(tmp_path / "third.png")
    found = predict(trained, [tmp_path / "images.npz", tmp_path / "third.png"])
    assert [row["anomaly_score"] for row in found] == pytest.approx(expected[:3], rel=1e-5)
