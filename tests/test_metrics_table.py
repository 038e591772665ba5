"""Every metric of predictions and batch equals scikit-learn's, merged over ragged batches.

Seen to fail: ties that are ranked one by one; an AUC of 1/2 where one class is missing; padding
rows that count; R^2 by moments about 0; means merged without their weights; ranks of equal values
that are not their mean; bins that are closed below; weights left out of a metric or cut to whole
numbers; of one class against the rest, the probability of another.
"""

import warnings
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

import jdl
from jdl.metrics import merge, scalars

ROWS = 8  # of a batch, padding included
CLASSES = 3


def one(p):
    """The probability of 1 of two classes; of several labels those of each."""
    return p[:, 1]


def ranked(function):
    """A ranking metric of scikit-learn for classes (N, K), each against the rest."""

    def reference(y, p, w, **options):
        return function(np.eye(p.shape[1])[y], p, sample_weight=w, **options)

    return reference


def auc(y, p, w, average="macro"):
    """By class, as scikit-learn takes several classes only where all occur."""
    hot = y if y.ndim == 2 else np.eye(p.shape[1])[y]
    each = [sk.roc_auc_score(hot[:, k], p[:, k], sample_weight=w) for k in range(p.shape[1])]
    support = (hot * (1 if w is None else w[:, None])).sum(0)
    if average == "macro":
        return np.mean(each)
    return (support * np.where(support > 0, each, 0)).sum() / max(support.sum(), 1e-9)


def ece(y, p, w, bins):
    """By the bins of scikit-learn; rows with weights are repeated."""
    confidence, correct = p.max(1), p.argmax(1) == y
    if w is not None:
        times = (w * 4).astype(int)
        confidence, correct = confidence.repeat(times), correct.repeat(times)
    right, mean = calibration_curve(correct, confidence, n_bins=bins)
    edges = np.linspace(0, 1, bins + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=bins)
    return (counts[counts > 0] / len(correct) * abs(right - mean)).sum()


def threshold(y, p, w, quality):
    """The highest of the thresholds with the best score, tried one by one."""
    if len(np.unique(y)) < 2:
        return np.nan
    tried = np.unique(one(p))[::-1]
    return tried[np.argmax([round(quality(y, one(p) >= t, sample_weight=w), 12) for t in tried])]


def youden(y, predicted, sample_weight):
    return sum(sk.recall_score(y == k, predicted == k, sample_weight=sample_weight) for k in (0, 1))


def labels_of(function):
    """A metric of scikit-learn of predicted labels."""
    return lambda y, p, w: function(y, p.argmax(1), sample_weight=w)


def decided(function, **options):
    """A metric of scikit-learn at a threshold, of two classes or of several labels."""

    def reference(y, p, w, at):
        predicted = (p if y.ndim == 2 else one(p)) >= at
        return function(y, predicted, sample_weight=w, zero_division=0, **options)

    return reference


def kappa(y, p, w, **options):
    return sk.cohen_kappa_score(
        y, p.argmax(1), labels=range(p.shape[1]), sample_weight=w, **options
    )


def brier(y, p, w):
    return sk.brier_score_loss(y, p, labels=range(p.shape[1]), sample_weight=w)


def log_loss(y, p, w):
    """In float32, by whose resolution scikit-learn bounds what is certain."""
    return sk.log_loss(y, p.astype(np.float32), labels=range(p.shape[1]), sample_weight=w)


def pearson(y, v, w):
    y, v = y.ravel(), v.ravel()
    if len(np.unique(y)) < 2 or len(np.unique(v)) < 2:
        return np.nan
    cov = np.cov(y, v, aweights=w, ddof=0)
    return cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])


def second(metric):
    """The metric of the second of several classes against the others."""

    def of_batch(predictions, batch, row_weights):
        return M.one_vs_rest(partial(metric, row_weights=row_weights), 1)(predictions, batch)

    return of_batch


M = jdl.metrics
TABLE = {  # by kind of target: (our metric, the reference(y, prediction, weights), takes weights)
    "binary": {
        "auc": (M.roc_auc, lambda y, p, w: sk.roc_auc_score(y, one(p), sample_weight=w)),
        "ap": (
            M.average_precision,
            lambda y, p, w: sk.average_precision_score(y, one(p), sample_weight=w),
        ),
        "precision": (
            partial(M.precision_at, threshold=0.375),
            partial(decided(sk.precision_score), at=0.375),
        ),
        "recall": (
            partial(M.recall_at, threshold=0.375),
            partial(decided(sk.recall_score), at=0.375),
        ),
        "f1": (M.f1_at, partial(decided(sk.f1_score), at=0.5)),
        "threshold": (
            M.best_threshold,
            partial(threshold, quality=partial(sk.f1_score, zero_division=0)),
        ),
        "youden": (
            partial(M.best_threshold, metric="youden"),
            partial(threshold, quality=youden),
        ),
        "mcc": (M.matthews, labels_of(sk.matthews_corrcoef)),
        "ece": (partial(M.calibration_error, bins=10), partial(ece, bins=10)),
        "brier": (M.brier, brier),
        "log_loss": (M.log_loss, log_loss),
    },
    "classes": {
        "auc": (M.roc_auc, auc),
        "auc_weighted": (partial(M.roc_auc, average="weighted"), partial(auc, average="weighted")),
        "ap": (M.average_precision, ranked(sk.average_precision_score)),
        "ap_weighted": (
            partial(M.average_precision, average="weighted"),
            partial(ranked(sk.average_precision_score), average="weighted"),
        ),
        "mcc": (M.matthews, labels_of(sk.matthews_corrcoef)),
        "kappa": (M.cohen_kappa, kappa),
        "kappa_linear": (
            partial(M.cohen_kappa, distance="linear"),
            partial(kappa, weights="linear"),
        ),
        "kappa_quadratic": (
            partial(M.cohen_kappa, distance="quadratic"),
            partial(kappa, weights="quadratic"),
        ),
        "balanced": (M.balanced_accuracy, labels_of(sk.balanced_accuracy_score)),
        "balanced_of_one": (
            second(M.balanced_accuracy),
            lambda y, p, w: sk.balanced_accuracy_score(y == 1, p.argmax(1) == 1, sample_weight=w),
        ),
        "auc_of_one": (
            second(M.roc_auc),
            lambda y, p, w: sk.roc_auc_score(y == 1, p[:, 1], sample_weight=w),
        ),
        "ece": (partial(M.calibration_error, bins=4), partial(ece, bins=4)),
        "brier": (M.brier, brier),
        "log_loss": (M.log_loss, log_loss),
    },
    "labels": {
        "auc": (M.roc_auc, auc),
        "ap": (
            M.average_precision,
            lambda y, p, w: sk.average_precision_score(y, p, sample_weight=w),
        ),
        "precision": (
            M.precision_at,
            partial(decided(sk.precision_score, average="macro"), at=0.5),
        ),
        "recall": (M.recall_at, partial(decided(sk.recall_score, average="macro"), at=0.5)),
        "f1": (M.f1_at, partial(decided(sk.f1_score, average="macro"), at=0.5)),
        "f1_micro": (
            partial(M.f1_at, average="micro"),
            partial(decided(sk.f1_score, average="micro"), at=0.5),
        ),
        "brier": (
            M.brier,
            lambda y, p, w: sk.mean_squared_error(y, p, sample_weight=w),
        ),
    },
    "numbers": {
        "mae": (M.mae, sk.mean_absolute_error),
        "rmse": (M.rmse, sk.root_mean_squared_error),
        "mape": (M.mape, sk.mean_absolute_percentage_error),
        "r2": (M.r2, sk.r2_score),
        "explained": (M.explained_variance, sk.explained_variance_score),
        "median": (M.median_absolute_error, sk.median_absolute_error),
        "pearson": (M.pearson, pearson),
        "spearman": (M.spearman, lambda y, v, w: stats.spearmanr(y[:, 0], v[:, 0]).statistic),
    },
}
TABLE["pairs"] = {  # several targets a row
    name: TABLE["numbers"][name] for name in ("mae", "rmse", "mape", "r2", "explained", "median")
}
UNWEIGHTED = ("spearman",)


def rows_of(kind, n, form, rng):
    """(predictions, y) of n rows, with random numbers, ties, or one class or value alone."""
    if kind in ("numbers", "pairs"):
        y = rng.normal(1e4, 1, (n, 1 + (kind == "pairs"))).astype(np.float32)
        y = y.round() if form == "tied" else np.full_like(y, 2) if form == "single" else y
        return {"value": y + rng.normal(size=y.shape).astype(np.float32).round(form == "random")}, y
    width = 2 if kind == "binary" else CLASSES
    p = rng.dirichlet(np.ones(width), n)
    if kind == "labels":
        p = rng.random((n, width))
    if form == "tied":  # eighths, which add up to 1
        p = np.diff(np.sort(rng.integers(0, 9, (n, width - 1))) / 8, prepend=0, append=1)
    p = p.astype(np.float32)
    y = rng.integers(0, 2 if kind == "labels" else width, (n, width) if kind == "labels" else n)
    y = np.zeros_like(y) + rng.integers(0, 2) if form == "single" else y
    label = (p >= 0.5).astype(int) if kind == "labels" else p.argmax(1)
    return {"probability": p, "label": label}, y.astype(np.int32)


def batches(columns, n, cuts, order):
    """Ragged batches of the rows in some order, each padded with rows that hold anything."""
    for part in np.split(order, cuts):
        for start in range(0, max(len(part), 1), ROWS):
            ids = part[start : start + ROWS]
            padded = {k: np.full((ROWS, *c.shape[1:]), 7, c.dtype) for k, c in columns.items()}
            for name, column in columns.items():
                padded[name][: len(ids)] = column[ids]
            yield {**padded, "mask": np.arange(ROWS) < len(ids)}


@partial(jax.jit, static_argnames=("kind", "weights"))
def of_batch(batch, kind, weights):
    predictions = {name: batch[name] for name in ("probability", "label", "value") if name in batch}
    return {
        name: ours(predictions, batch, **({} if name in UNWEIGHTED else {"row_weights": weights}))
        for name, (ours, _) in TABLE[kind].items()
    }


@pytest.mark.parametrize("kind", TABLE)
@settings(max_examples=15, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    n=st.integers(1, 40),
    form=st.sampled_from(["random", "tied", "single"]),
    weights=st.sampled_from([None, "weight"]),
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_it_is_what_scikit_learn_computes_of_the_whole(kind, n, form, weights, seed, cuts):
    rng = np.random.default_rng(seed)
    predictions, y = rows_of(kind, n, form, rng)
    weight = rng.integers(0, 5, n).astype(np.float32) / 4
    columns = {**predictions, "y": y, "weight": weight}
    parts = [
        of_batch(batch, kind=kind, weights=weights)
        for batch in batches(columns, n, sorted(min(c, n) for c in cuts), rng.permutation(n))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged = scalars(merge(parts))
    counts = weight > 0 if weights else np.ones(n, bool)
    given = next(iter(predictions.values()))[counts].astype(np.float64)
    used = weight[counts].astype(np.float64) if weights else None
    for name, (_, reference) in TABLE[kind].items():
        by_rows = name in UNWEIGHTED
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arguments = (columns["y"], next(iter(predictions.values())).astype(np.float64), None)
            arguments = arguments if by_rows else (y[counts], given, used)
            if kind in ("numbers", "pairs") and not by_rows and name != "pearson":
                call = partial(reference, arguments[0], arguments[1], sample_weight=arguments[2])
            else:
                call = partial(reference, *arguments)
            expected = call() if counts.any() or by_rows else np.nan
        if counts.any() or by_rows:
            assert merged[name] == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True), name
