"""Statistics of results: equal to statsmodels 0.15.0, rliable 1.2.0 and SciPy on fixed scores.

Seen to fail: another trimmed share, ties of scores and of thresholds, Holm's factors without the
running maximum, the degrees of freedom or the effect of the other t-test, a one-sided McNemar test,
unpaired exchanges of paired scores, and a stratified bootstrap that draws whole rows.
"""

import numpy as np
import pytest
from scipy import stats

import jdl
from jdl import statistics

A = np.array([0.912, 0.905, 0.921, 0.899, 0.915, 0.908, 0.917])
B = np.array([0.918, 0.911, 0.919, 0.907, 0.922, 0.909, 0.925])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_summaries_are_those_of_rliable():
    close(statistics.interquartile_mean(A), 0.9114)
    close(statistics.interquartile_mean(B), 0.9158)
    close(statistics.probability_of_improvement(A, B), 0.6938775510204082)
    assert statistics.probability_of_improvement([1, 1], [1, 2]) == 0.75
    close(statistics.performance_profile(A, [0.9, 0.912, 0.92]), [6 / 7, 3 / 7, 1 / 7])
    low, high = statistics.stratified_bootstrap_interval(np.stack([A, B], 1))
    np.testing.assert_allclose([low, high], [0.909375, 0.918], atol=2e-4)  # other draws


def test_the_seeds_of_each_task_are_drawn_apart():
    """Drawn together, the two tasks' opposite scores would always cancel."""
    scores = np.array([[0.0, 1.0], [1.0, 0.0]] * 4)
    low, high = statistics.stratified_bootstrap_interval(scores, np.mean)
    assert low < 0.4
    assert high > 0.6


@pytest.mark.parametrize(
    ("effect", "pairs", "each"), [(0.2, 199, 394), (0.5, 34, 64), (1, 10, 17), (2, 6, 6), (9, 6, 4)]
)
def test_seeds_needed_are_those_of_statsmodels(effect, pairs, each):
    assert statistics.seeds_needed(effect, 1.0, paired=True) == pairs
    assert statistics.seeds_needed(-effect / 7, 1 / 7, paired=False) == each


def test_the_power_is_that_of_statsmodels():
    close(statistics._power(0.5, 10, True, 0.05), 0.2931756065141767)
    close(statistics._power(0.5, 10, False, 0.05), 0.18509565629116606)


def test_p_values_are_those_of_statsmodels():
    right_a, right_b = (
        np.repeat([1, 1, 0, 0], (10, 2, 9, 5)),
        np.repeat([1, 0, 1, 0], (10, 2, 9, 5)),
    )
    close(statistics.mcnemar(right_a, right_b), 0.0654296875)
    assert statistics.mcnemar([1, 0], [1, 0]) == 1
    close(statistics.holm([0.04, 0.01, 0.03, 0.2]), [0.09, 0.04, 0.09, 0.2])


def test_permutation_tests_are_exact_where_few_ways_to_exchange_exist():
    signs = np.array(np.meshgrid(*[(1, -1)] * 7)).reshape(7, -1)
    means = ((B - A) @ signs) / 7
    exact = (np.abs(means) >= (B - A).mean() * (1 - 1e-9)).mean()
    close(statistics.permutation_test(A, B, paired=True), exact)
    close(statistics.permutation_test([1.0, 2, 3], [4.0, 5, 6], paired=False), 2 / 20)
    assert statistics.permutation_test(A, A, paired=True) == 1
    with pytest.raises(jdl.Error, match="Pairs of 7 and 2 scores"):
        statistics.permutation_test(A, B[:2], paired=True)


def test_intervals_are_those_of_scipy_and_the_same_each_time():
    expected = stats.bootstrap((A,), np.mean, n_resamples=9_999, rng=np.random.default_rng(0))
    assert statistics.bootstrap_interval(A) == tuple(expected.confidence_interval)
    assert statistics.bootstrap_interval(A, seed=1) != statistics.bootstrap_interval(A)
    low, high = statistics.bootstrap_interval(B, A, statistic=statistics.mean_difference)
    assert low < B.mean() - A.mean() < high
    assert statistics.bootstrap_interval([0.5, 0.5]) == (0.5, 0.5)


def test_scores_that_have_no_answer_are_refused():
    with pytest.raises(jdl.Error, match="two scores or more"):
        statistics.bootstrap_interval([0.5])
    with pytest.raises(jdl.Error, match="finite"):
        statistics.interquartile_mean([0.5, np.nan])
    with pytest.raises(jdl.Error, match="No number of seeds"):
        statistics.seeds_needed(0.0, 1.0, paired=True)
    with pytest.raises(jdl.Error, match=r"\(seeds, tasks\)"):
        statistics.stratified_bootstrap_interval([1.0, 2.0])
