"""Statistics of results over seeds, tasks and rows: intervals, tests, and how many seeds it takes.

Scores are NumPy arrays with a number for each run (a seed), or (seeds, tasks). The computations are
SciPy's where it has them. What is drawn is drawn from a fixed seed: the same scores give the same
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb
from typing import Any, NamedTuple

import numpy as np

from jdl.errors import Error

RESAMPLES = 9_999
BATCH = 200  # resamples that are held at once


class Interval(NamedTuple):
    """A confidence interval: of samples drawn anew, a share of its level has the truth within."""

    low: float
    high: float


def interquartile_mean(scores: Any) -> float:
    """Interquartile mean, IQM (Agarwal et al., 2021): the mean of the middle half of all scores.

    A quarter of them, rounded down, is left out at each end. It moves less with an outlier than
    the mean, and needs fewer runs than the median.
    """
    from scipy.stats import trim_mean

    return float(trim_mean(_scores(scores), 0.25, axis=None))


def bootstrap_interval(
    *samples: Any,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    method: str = "BCa",
    seed: int = 0,
) -> Interval:
    """Bootstrap confidence interval (Efron, 1987) of a statistic: `scipy.stats.bootstrap`.

    `statistic(*samples, axis)` gives a number for each resample. Several samples are resampled
    apart from each other. "BCa" corrects for bias and skewness; "percentile" is for thousands of
    values, where both agree. Scores that are all the same give an interval of that one value.
    """
    from scipy.stats import bootstrap

    values = tuple(map(_scores, samples))
    if any(len(one) < 2 for one in values):
        raise Error("An interval needs two scores or more: train the run with other seeds too.")
    if all(np.ptp(one) == 0 for one in values):
        same = float(statistic(*values, axis=-1))
        return Interval(same, same)
    result = bootstrap(
        values,
        statistic,
        n_resamples=RESAMPLES,
        batch=BATCH,
        vectorized=True,
        confidence_level=level,
        method=method,
        rng=np.random.default_rng(seed),
    )
    return Interval(*map(float, result.confidence_interval))


def stratified_bootstrap_interval(
    scores: Any,
    statistic: Callable[[Any], float] = interquartile_mean,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Stratified bootstrap interval (Agarwal et al., 2021) of a statistic of (seeds, tasks).

    The seeds of each task are resampled apart from those of other tasks; the interval is that of
    the percentiles.
    """
    values = _scores(scores, axes=2)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(values), size=(RESAMPLES, *values.shape))
    found = [statistic(np.take_along_axis(values, draw, 0)) for draw in draws]
    tail = 50 * (1 - level)
    return Interval(*map(float, np.percentile(found, [tail, 100 - tail])))


def performance_profile(scores: Any, thresholds: Any) -> np.ndarray:
    """Performance profile (Dolan and More, 2002): the share of all scores above each threshold."""
    return (_scores(scores).reshape(-1) > np.asarray(thresholds)[:, None]).mean(1)


def probability_of_improvement(a: Any, b: Any) -> float:
    """Probability of improvement: that a run of `b` scores higher than one of `a`; ties are half.

    It is the Mann-Whitney statistic divided by the number of pairs.
    """
    of_a, of_b = _scores(a)[:, None], _scores(b)
    return float((of_b > of_a).mean() + 0.5 * (of_b == of_a).mean())


def permutation_test(a: Any, b: Any, paired: bool, seed: int = 0) -> float:
    """Permutation test (Fisher, 1935) of the difference of two means: the two-sided p-value.

    Paired scores are exchanged within their pairs, others between the two groups. It is exact where
    there are few enough ways to exchange them, and else of 9,999 random ones.
    """
    from scipy.stats import permutation_test as test

    of_a, of_b = _scores(a), _scores(b)
    if paired and of_a.shape != of_b.shape:
        raise Error(f"Pairs of {len(of_a)} and {len(of_b)} scores: give as many of both.")
    if paired and (of_a == of_b).all():
        return 1.0
    result = test(
        (of_b, of_a),
        mean_difference,
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def mean_difference(b: Any, a: Any, axis: int = -1) -> Any:
    """The mean of `b` less the mean of `a`, along an axis."""
    return np.mean(b, axis=axis) - np.mean(a, axis=axis)


def mcnemar(a: Any, b: Any) -> float:
    """McNemar's test (1947), exact, of two classifiers on the same rows: the two-sided p-value.

    `a` and `b` (N,) say which rows each got right. Only those count that one of them got right and
    the other wrong: the test is binomial, of a half.
    """
    from scipy.stats import binomtest

    right_a, right_b = np.asarray(a, bool), np.asarray(b, bool)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction (1979) of the p-values of several tests, in their order.

    The smallest is multiplied by their number, the next by one less, and so on; none falls below
    the one before it.
    """
    count, largest = len(p_values), 0.0
    corrected = [0.0] * count
    for rank, n in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (count - rank) * p_values[n]))
        corrected[n] = largest
    return corrected


def seeds_needed(
    difference: float, deviation: float, paired: bool, power: float = 0.8, level: float = 0.05
) -> int:
    """Power analysis: with how many seeds a t-test finds such a difference of means.

    `deviation` is the standard deviation of the pairs' differences, or that of one group where the
    two are not paired; then as many seeds are needed in each. The test is two-sided at `level`,
    and finds the difference with the probability `power`. There are at least as many as a
    permutation test needs to be able to come below the level: 6 pairs, or 4 in each, for 5%.
    """
    if difference == 0 or not np.isfinite([difference, deviation]).all():
        raise Error(f"No number of seeds shows a difference of {difference} (sd {deviation}).")
    effect, fewest = abs(difference) / max(deviation, 1e-300), fewest_seeds(paired, level)
    if _power(effect, fewest, paired, level) >= power:
        return fewest
    low, high = fewest, 2 * fewest  # too few, and enough
    while _power(effect, high, paired, level) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = _power(effect, middle, paired, level) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def fewest_seeds(paired: bool, level: float = 0.05) -> int:
    """With how many pairs, or seeds in each group, a permutation test can come to this level."""
    fewest = 2
    while smallest_p_value(fewest, fewest, paired) > level:
        fewest += 1
    return fewest


def smallest_p_value(a: int, b: int, paired: bool) -> float:
    """The smallest two-sided p-value of a permutation test of so many scores, however they differ.

    It is 2 / 2^n of n pairs, and of two groups 2 by the number of ways to divide all their scores.
    """
    return min(1.0, 2 / 2**a if paired else 2 / comb(a + b, a))


def _power(effect: float, count: int, paired: bool, level: float) -> float:
    """The power of a two-sided t-test with `count` pairs, or with `count` scores in each group."""
    from scipy.stats import nct, t

    freedom = count - 1 if paired else 2 * count - 2
    shift = effect * (count if paired else count / 2) ** 0.5
    if shift > 30:  # beyond what the noncentral distribution can be computed for
        return 1.0
    critical = t.isf(level / 2, freedom)
    wrong_side = np.nan_to_num(nct.cdf(-critical, freedom, shift))  # NaN where it is tiny
    return float(nct.sf(critical, freedom, shift) + wrong_side)


def _scores(scores: Any, axes: int | None = None) -> np.ndarray:
    values = np.asarray(scores, np.float64)
    if not values.size or not np.isfinite(values).all():
        raise Error("Scores must be finite numbers, one or more: a run that became NaN has none.")
    if axes is not None and values.ndim != axes:
        raise Error(f"Scores must be (seeds, tasks), and have the shape {values.shape}.")
    return values
