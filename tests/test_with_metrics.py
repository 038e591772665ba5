"""More metrics for an objective: they leave training as it is, and travel like any other.

Seen to fail: metrics that are computed in training too; a taken name that replaces the objective's
metric; padding rows that are ranked; the lowest of equally good thresholds; padding that counts
without a note, with one for a temperature too, or compiled anew to find it.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as sk

import jdl
from jdl.figures.reliability import draw_reliability
from jdl.inspect.evaluate import evaluate
from jdl.metrics import (
    Calibration,
    Rows,
    Sums,
    best_threshold,
    best_thresholds,
    f1_at,
    merge,
    roc_auc,
    scalars,
)
from jdl.models.cnn import CNN
from jdl.models.mlp import MLP
from jdl.objectives import predict_all, with_metrics
from jdl.objectives.override import override
from jdl.train.check import check_run
from jdl.train.evaluate import evaluator
from jdl.train.placement import place_on_devices
from jdl.train.summary import summarize

ROWS = 60  # the last of 8 batches has 4


def hits(predictions, batch):
    return jdl.Mean.of((predictions["label"] == batch["y"]).astype(jnp.float32), batch["mask"])


METRICS = {
    "auc": jdl.metrics.roc_auc,
    "ap": partial(jdl.metrics.average_precision, row_weights="weight"),
    "ece": jdl.metrics.calibration_error,
    "mcc": jdl.metrics.matthews,
    "hits": hits,
}


def make_run(metrics=METRICS, best="max auc", learner=lambda learner: learner, **config):
    c = jdl.Config(**{"name": "with_metrics", "steps": 4, **config})
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, ROWS).astype(np.int32)
    x = (rng.normal(size=(ROWS, 3)) + y[:, None]).astype(np.float32)
    data = jdl.data.arrays(x=x, y=y, weight=rng.random(ROWS).astype(np.float32))
    objective = with_metrics(jdl.objectives.classify(MLP(2, hidden=(4,))), **metrics)
    descent = learner(jdl.descent(objective, optax.sgd(0.1)))
    return jdl.Run(c, descent, data.shuffled(8, 0), data.batches(8), data.batches(8), best)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    options = jdl.Options(root=root, quiet=True, eval_every=1, save_every=1, log_every=1)
    result = jdl.fit(make_run(), options)
    summarize(result)
    return result


def columns(result):
    run = make_run()
    variables = run.learner.eval_variables(result.state)
    return predict_all(run.learner.objective, variables, run.test, ("y", "weight"))


@pytest.mark.slow
def test_a_run_reports_what_scikit_learn_computes_of_its_predictions(trained):
    found = columns(trained)
    y, p = found["y"], found["probability"][:, 1]
    numbers = scalars(trained.metrics["test"])
    assert numbers["auc"] == pytest.approx(sk.roc_auc_score(y, p), abs=1e-9)
    expected = sk.average_precision_score(y, p, sample_weight=found["weight"])
    assert numbers["ap"] == pytest.approx(expected, abs=1e-6)
    assert numbers["hits"] == numbers["accuracy"] == pytest.approx((found["label"] == y).mean())
    assert roc_auc(found, found).value() == numbers["auc"]
    restored = jdl.restore(trained.folder, make_run())
    assert evaluate(restored)["test"] == numbers
    best = jdl.restore(trained.folder, make_run(), best=True)
    lines = (trained.folder / "metrics.jsonl").read_text().splitlines()
    assert evaluate(best)["valid"]["auc"] == max(
        eval(line, {"null": None})["auc"] for line in lines if '"valid"' in line
    )
    assert (trained.folder / "figures" / "test_ece.png").read_bytes().startswith(b"\x89PNG")


def test_a_threshold_chosen_on_one_split_serves_on_another(trained):
    found = columns(trained)
    valid, test = (
        {name: x[part] for name, x in found.items()} for part in (slice(30), slice(30, 60))
    )
    threshold = best_threshold(valid, valid).value()
    decided = test["probability"][:, 1] >= threshold
    expected = sk.f1_score(test["y"], decided)
    f1 = jdl.metrics.f1_at(test, test, threshold=threshold)
    assert float(f1.value()) == pytest.approx(expected, abs=1e-6)


def test_of_equally_good_thresholds_it_is_the_highest():
    scores = np.asarray([0.875, 0.75, 0.5, 0.25], np.float32)  # F1 is 2/3 at the first and the last
    columns = {"probability": np.stack([1 - scores, scores], 1), "y": np.asarray([1, 0, 0, 1])}
    assert best_threshold(columns, columns).value() == 0.875


@pytest.mark.parametrize("options", [{"mesh": "data=4"}, {"parallel": "pmap", "devices": 4}])
def test_on_four_devices_it_is_what_one_device_computes(trained, options):
    placement = place_on_devices(make_run(), jdl.Options(**options))
    state = jax.tree.map(jnp.asarray, jax.device_get(trained.state))
    found = scalars(evaluator(placement.learner, placement.run.test)(state))
    assert found == pytest.approx(scalars(trained.metrics["test"]), abs=1e-6)


def test_training_is_the_same_program_and_evaluation_calls_the_model_once():
    train, _ = jdl.data.digits()
    batch = train.batches(16)[0]

    def programs(**metrics):
        objective = jdl.objectives.classify(CNN(10, blocks=((8, 1),), dense=(32,)))
        learner = jdl.descent(with_metrics(objective, **metrics), optax.sgd(0.1))
        state = jax.eval_shape(learner.init, jax.random.key(0), batch)

        def metrics_of(state):
            variables = learner.eval_variables(state)
            return learner.objective.loss(variables, batch, state.key, False).metrics

        step = jax.jit(learner.step).lower(state, batch).as_text()
        return step, jax.jit(metrics_of).lower(state).compile().cost_analysis()["flops"]

    (plain, flops), (step, more) = programs(), programs(auc=roc_auc, brier=jdl.metrics.brier)
    assert step == plain
    assert flops < more < 1.1 * flops  # 1.02 was measured; two calls are 1.9


def test_members_of_a_population_have_their_own():
    run = make_run({"auc": roc_auc}, "max auc/mean", lambda one: jdl.population(one, (0, 1)))
    check_run(run)
    state = jax.jit(run.learner.init)(jax.random.key(0), run.train[0])
    found = scalars(evaluator(run.learner, run.test)(state))
    alone = make_run({"auc": roc_auc})
    init, evaluate_one = jax.jit(alone.learner.init), evaluator(alone.learner, alone.test)
    states = [init(jax.random.key(seed), run.train[0]) for seed in (0, 1)]
    each = [scalars(evaluate_one(state))["auc"] for state in states]
    assert found["auc/mean"] == pytest.approx(np.mean(each), abs=1e-6)
    assert found["auc/max"] == pytest.approx(max(each), abs=1e-6)


def test_rows_of_many_batches_and_of_none():
    def count(x):
        return float(len(x))

    part = Rows.of(count, jnp.zeros(2), mask=jnp.asarray([True, False]))
    assert merge([{"rows": part}] * 5_000)["rows"].value() == 5_000
    assert float(jax.jit(lambda part: (part + part).value())(part)) == 2
    nothing = Rows.of(count, jnp.zeros((2, 3)), mask=jnp.zeros((2, 3), bool))
    assert np.isnan(scalars(merge([{"rows": nothing}]))["rows"])
    steps = Rows.of(count, jnp.zeros((2, 3, 5)), mask=jnp.asarray([[1, 1, 0], [1, 0, 0]]))
    assert steps.value() == 3


def test_sums_of_a_metric_of_ones_own():
    def spread(total, squares, count):
        return squares / count - (total / count) ** 2

    def of(x):
        return Sums(
            spread, {"total": x.sum(), "squares": (x * x).sum(), "count": jnp.float32(len(x))}
        )

    x = jnp.arange(5, dtype=jnp.float32)
    assert merge([{"spread": of(x[:2])}, {"spread": of(x[2:])}])["spread"].value() == 2


def test_unknown_labels_and_time_steps_beyond_the_length_do_not_count():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(2), (3, 4)).astype(np.float32)
    y = np.asarray([[0, 1, 1, 0], [1, 0, -1, 1], [0, 1, 0, 1]], np.int32)
    known = np.asarray([[1, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]], bool)
    batch = {"y": y, "length": np.asarray([3, 4, 4]), "mask": np.asarray([True, True, False])}
    expected = sk.roc_auc_score(y[known], p[known][:, 1])
    assert roc_auc({"probability": p}, batch).value() == pytest.approx(expected)
    expected = sk.brier_score_loss(y[known], p[known][:, 1])
    brier = jdl.metrics.brier({"probability": p}, batch).value()
    assert float(brier) == pytest.approx(expected, rel=1e-6)


def test_unknown_labels_of_several_a_row_do_not_count():
    """Each label is scored on the rows where it is known. Seen to fail: with F1 of -2."""
    rng = np.random.default_rng(0)
    p, w = rng.random((40, 3), np.float32), rng.random(40).astype(np.float32)
    y = rng.integers(-1, 2, (40, 3)).astype(np.int32)
    known, predictions, batch = y >= 0, {"probability": p}, {"y": y, "w": w}

    def mean(score, by_label):
        return np.mean([score(y[k, n], by_label[k, n], sample_weight=w[k]) for n, k in by_column])

    by_column = list(enumerate(known.T))
    for metric, expected in {
        roc_auc: mean(sk.roc_auc_score, p),
        jdl.metrics.average_precision: mean(sk.average_precision_score, p),
        jdl.metrics.f1_at: mean(sk.f1_score, p >= 0.5),
        jdl.metrics.brier: sk.brier_score_loss(
            y[known], p[known], sample_weight=(w[:, None] * known)[known]
        ),
    }.items():
        assert metric(predictions, batch, row_weights="w").value() == pytest.approx(
            expected, rel=1e-5
        )
    one = {"y": np.asarray([[-1], [1]])}
    p = {"probability": np.asarray([[0.9], [0.8]], np.float32)}
    assert jdl.metrics.f1_at(p, one).value() == 1


def test_one_hot_and_soft_labels_of_classify_are_no_several_labels():
    """They are those of the likeliest class. Seen to fail: a Brier score by label."""
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(3), 20).astype(np.float32), rng.integers(0, 3, 20)
    predictions, soft = {"probability": p, "label": p.argmax(1)}, 0.8 * np.eye(3)[y] + 0.1
    for metric in (jdl.metrics.brier, jdl.metrics.log_loss, jdl.metrics.matthews, roc_auc):
        found, expected = (metric(predictions, {"y": labels}).value() for labels in (soft, y))
        assert found == expected
    data = jdl.data.arrays(x=p, y=y)
    objective = with_metrics(jdl.objectives.classify(MLP(3)), ll=jdl.metrics.log_loss)
    mixed = data.shuffled(8, 0, jdl.data.mixup(classes=3))
    c, learner = jdl.Config(name="mixed", steps=1), jdl.descent(objective, optax.sgd(0.1))
    check_run(jdl.Run(c, learner, mixed, test=data.batches(8)))


def test_a_threshold_whose_criterion_is_nan_is_never_the_best():
    y, p = np.asarray([0, 1, 1, 0]), np.asarray([0.9, 0.8, 0.7, 0.1], np.float32)
    columns = {"probability": np.stack([1 - p, p], 1)}

    def chosen(metric):
        return best_threshold(columns, {"y": y}, metric=metric).value()

    assert chosen(lambda tp, fp, fn, tn: np.where(tp == 0, np.nan, tp - fp)) == p[2]
    assert np.isnan(chosen(lambda tp, fp, fn, tn: tp * np.nan))


def test_each_label_has_its_best_threshold_tried_one_by_one():
    """By scikit-learn's F1 score, without unknown labels. Seen to fail where these are zeros."""
    draw = np.random.default_rng(1)
    y, p = draw.integers(-1, 2, (40, 4)), draw.uniform(size=(40, 4))
    p = np.choose(y + 1, [p**6, p**2, p**0.5]).round(1).astype(np.float32)
    y[:, 3] = 0
    found = best_thresholds({"label": y, "probability": p}, {"y": y})
    assert np.isnan(found[3])
    each = []
    for k in range(3):
        known = y[:, k] >= 0
        scores = {t: sk.f1_score(y[known, k], p[known, k] >= t) for t in np.unique(p[known, k])}
        each.append(max(scores.values()))
        assert found[k] == max(t for t, score in scores.items() if score == each[-1])
    assert len(set(found)) > 2
    columns = {"label": y[:, :3], "probability": p[:, :3]}
    macro = f1_at(columns, {"y": y[:, :3]}, threshold=found[:3]).value()
    assert macro == pytest.approx(np.mean(each))


def test_a_reliability_diagram_of_nothing_is_drawn_without_a_warning(tmp_path, recwarn):
    nothing = Calibration.of(jnp.ones(3), jnp.ones(3), mask=jnp.zeros(3))
    draw_reliability(merge([{"ece": nothing}])["ece"], tmp_path / "ece.png")
    assert (tmp_path / "ece.png").exists()
    assert not [w for w in recwarn if issubclass(w.category, (RuntimeWarning, UserWarning))]


def of_hits(change):
    """A metric of one's own, of the hits and the mask."""
    return lambda p, b: change((p["label"] == b["y"]).astype(jnp.float32), b["mask"])


def padding_notes(run):
    """What two evaluations say of padding; both give what one gives that does not ask."""
    notes = []
    asking, state = (
        evaluator(run.learner, run.test, notes.append),
        run.learner.init(jax.random.key(0), run.train[0]),
    )
    numbers = [scalars(f(state)) for f in (asking, asking, evaluator(run.learner, run.test))]
    assert numbers[0] == numbers[1] == numbers[2]
    assert asking._compiled._cache_size() == 1
    return notes


@pytest.mark.parametrize(
    ("metric", "told", "told_of_one_batch"),
    [
        (lambda right, mask: jdl.Mean.of(right), 1, 1),
        (lambda right, mask: jdl.Mean.of(jnp.where(mask, right, 0)), 1, 1),
        (lambda right, mask: jdl.Mean(right.mean(), jnp.float32(1)), 1, 0),  # for all it can know
        (lambda right, mask: Rows.of(np.mean, right), 1, 1),
        (lambda right, mask: jdl.Mean.of(right, mask), 0, 0),
        (lambda right, mask: Rows.of(np.mean, right, mask=mask), 0, 0),
        (lambda right, mask: jdl.Mean.of(jnp.full(1, 0.07)), 0, 0),  # a temperature
    ],
)
def test_a_metric_that_counts_padding_is_told_once(metric, told, told_of_one_batch):
    run = make_run({**METRICS, "mine": of_hits(metric)})
    notes = padding_notes(run)
    assert ["the metric mine, without the mask: 4 of the 8 rows" in note for note in notes] == (
        [True] * told
    )
    alone = replace(run, test=replace(run.test, size=64))
    assert len(padding_notes(alone)) == told_of_one_batch
    assert not padding_notes(replace(run, test=replace(run.test, size=ROWS)))


def test_training_tells_of_a_loss_that_counts_padding(tmp_path, capsys):
    run = make_run({})
    objective = run.learner.objective

    def loss(variables, batch, key, train):
        return objective.loss(variables, {**batch, "mask": batch["mask"] | True}, key, train)

    learner = jdl.descent(override(objective, loss=loss), optax.sgd(0.1))
    jdl.fit(replace(run, learner=learner, best="min loss", test=None), jdl.Options(root=tmp_path))
    text = "In the evaluation on the valid data padding counts in the loss and the metric accuracy"
    assert capsys.readouterr().out.count(text) == 1


def wrong(column):
    return {}[len(column)]


P3, Y3 = {"probability": np.ones((2, 3), np.float32) / 3}, {"y": np.asarray([0, 2])}
P2 = {"probability": np.ones((2, 2), np.float32) / 2, "label": np.zeros(2, int)}
P22 = {**P2, "label": np.zeros((2, 2), int)}  # of two labels a row


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("predicts nothing", lambda: with_metrics(jdl.Objective(), auc=roc_auc)),
        ("metric accuracy already", lambda: check_run(make_run({"accuracy": hits}))),
        ("metric loss already", lambda: check_run(make_run({"loss": hits}))),
        (
            "metric mine of Classification.loss is a single number",
            lambda: check_run(make_run({"mine": lambda p, b: p["label"].mean()})),
        ),
        ("has accuracy, auc", lambda: check_run(make_run({"auc": roc_auc}, "max acu"))),
        ("column value of the predictions", lambda: jdl.metrics.r2(P3, Y3)),
        ("column goal of the batch", lambda: roc_auc(P3, Y3, target="goal")),
        ("column w of the batch", lambda: roc_auc(P3, Y3, row_weights="w")),
        (r"labels of shape \(2, 2\)", lambda: roc_auc(P3, {"y": np.zeros((2, 2))})),
        (
            "must be one number a row",
            lambda: roc_auc(P3, {**Y3, "w": np.ones((2, 1))}, row_weights="w"),
        ),
        ("must be 0 and 1", lambda: roc_auc(P2, {"y": np.asarray([0, 2])}).value()),
        ("must be 0 and 1", lambda: roc_auc(P22, {"y": np.full((2, 2), 0.5)}).value()),
        ("3 classes: see the metric confusion", lambda: jdl.metrics.f1_at(P3, Y3)),
        ('"macro" or "weighted"', lambda: roc_auc(P3, Y3, average="mean")),
        ('"macro" or "micro"', lambda: jdl.metrics.f1_at(P2, Y3, average="mean")),
        ('"f1", "youden"', lambda: best_threshold(P2, Y3, metric="F1")),
        ("several labels", lambda: best_threshold(P22, {"y": np.ones((2, 2))})),
        ("take best_threshold", lambda: best_thresholds(P2, {"y": np.asarray([0, 1])})),
        ("3 thresholds, and .* 2 labels", lambda: f1_at(P22, {"y": np.ones((2, 2))}, (0.1,) * 3)),
        ("2 thresholds, and .* 2 classes", lambda: f1_at(P2, {"y": np.ones(2)}, (0.1, 0.2))),
        ("one class a row", lambda: jdl.metrics.matthews(P22, {"y": np.ones((2, 2))})),
        ("one class a row", lambda: jdl.metrics.log_loss(P22, {"y": np.ones((2, 2))})),
        ('"linear" or', lambda: jdl.metrics.cohen_kappa(P2, Y3, distance="cubic").value()),
        ("at least 1 bin", lambda: jdl.metrics.calibration_error(P2, Y3, bins=0)),
        ("make them equal", lambda: jdl.metrics.mae({"value": np.ones((2, 2))}, Y3)),
        (
            "The metric mine asks for 'prob': the predictions have the columns .*, and the batch",
            lambda: check_run(make_run({"mine": lambda p, b: jdl.Mean.of(p["prob"], b["mask"])})),
        ),
        (
            r"metric mine: wrong, called by Rows with columns of shapes \(3,\), raised KeyError",
            lambda: scalars({"mine": Rows.of(wrong, np.ones(3))}),
        ),
        ("those of the mask", lambda: Rows.of(len, np.ones(3), mask=np.ones(2))),
    ],
)
def test_refuses(message, call):
    with pytest.raises(jdl.Error, match=message):
        call()
