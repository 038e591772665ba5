"""Which of several runs is better: differences over seeds, or over rows, with their evidence."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from jdl import statistics
from jdl.inspect.by_row import metrics_by_row
from jdl.inspect.restore import restore
from jdl.statistics import Interval
from jdl.store import log
from jdl.store.catalog import entry
from jdl.store.record import read_record
from jdl.types import Error

LEVEL = 0.05  # a difference of a larger p-value is not called one
FEWEST = 5  # scores of which a bootstrap interval is computed


@dataclass(frozen=True)
class Scored:
    """The runs of one config, or of one pattern: a score for each, by seed."""

    name: str
    folders: Sequence[Path]
    seeds: Sequence[int]
    scores: np.ndarray
    interval: Interval | None  # of the mean; None of fewer than five runs
    configs: int = 1  # of how many configs the runs are, in a pattern

    @property
    def mean(self) -> float:
        """The mean over the runs."""
        return float(self.scores.mean())

    @property
    def iqm(self) -> float:
        """The interquartile mean over the runs."""
        return statistics.interquartile_mean(self.scores)


@dataclass(frozen=True)
class Difference:
    """How much better `better` is than `worse`, and what speaks for it."""

    better: str
    worse: str
    difference: float  # at least 0: how much higher, or lower where the metric is minimized
    interval: Interval | None
    p_value: float  # corrected by Holm's method where there are several pairs
    test: str
    count: int  # of pairs, or of runs in the smaller group
    unit: str
    seeds_needed: int | None  # to find such a difference in four of five times, where that is more
    least: float = 0.0  # p-value that so few seeds can give, corrected like the other
    fewest: int = 0  # seeds that can give a p-value below the level
    comparisons: int = 1  # for how many of them the p-value is corrected

    @property
    def is_evident(self) -> bool:
        """Whether chance alone would give such a difference in less than 5% of cases."""
        return self.p_value < LEVEL

    def __str__(self) -> str:
        within = f" (95%: {_range(self.interval)})" if self.interval else ""
        size = f"by {self.difference:#.4g}{within}, {self.count:,} {self.unit}"
        if self.is_evident:
            return f"{self.better} is better than {self.worse} {size}; {self._chance}."
        ahead = f"Too little evidence: {self.better} is ahead of {self.worse} {size}; "
        text = f"{ahead}{self._undecided if self.least > LEVEL else self._chance}."
        if self.seeds_needed is None:
            return text
        return f"{text} About {self.seeds_needed:,} seeds would show a difference of this size."

    @property
    def _chance(self) -> str:
        if self.comparisons == 1:
            share = _percent(self.p_value)
            return f"chance alone would give that much in {share} of cases ({self.test})"
        value = "p < 0.001" if self.p_value < 1e-3 else f"p = {self.p_value:.3f}"
        return f"{value} ({self.test}, corrected for {self.comparisons} comparisons)"

    @property
    def _undecided(self) -> str:
        """Why so few seeds decide nothing."""
        corrected = f", corrected for {self.comparisons} comparisons" * (self.comparisons > 1)
        return (
            f"so few cannot decide, however large the difference, as their p-value is "
            f"{self.least:#.3g} at best ({self.test}{corrected}): it takes at least {self.fewest} "
            "seeds"
        )


@dataclass(frozen=True)
class RunComparison:
    """A comparison of runs by a metric: the scores of each group, and each pair's difference."""

    metric: str
    mode: str  # max or min
    split: str
    groups: Sequence[Scored]
    pairs: Sequence[Difference]

    def __str__(self) -> str:
        width = max(len(group.name) for group in self.groups)
        head = f"{'':<{width}}  {'runs':>5} {'mean':>10} {'IQM':>10}   95% of the mean"
        lines = [f"{self.split} {self.metric}, {self.mode} is better", "", head]
        for group in self.groups:
            numbers = f"{len(group.scores):>5,} {group.mean:>#10.4g} {group.iqm:>#10.4g}"
            interval = _range(group.interval) or f"(of {FEWEST} runs or more)"
            lines.append(f"{group.name:<{width}}  {numbers}   {interval}")
        notes = [
            f"{group.name} has runs of {group.configs} configs, which differ by more than seeds."
            for group in self.groups
            if group.configs > 1
        ]
        return "\n".join([*lines, "", *map(str, self.pairs), *notes])

    def csv(self) -> str:
        """The score of each run as CSV: group, folder, seed, score."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["group", "folder", "seed", f"{self.split} {self.metric}"])
        for group in self.groups:
            rows = zip(group.folders, group.seeds, group.scores.tolist(), strict=True)
            writer.writerows([group.name, *row] for row in rows)
        return text.getvalue().rstrip("\n")


def compare_runs(
    groups: Mapping[str, Sequence[Path | str]],
    metric: str = "",
    split: str = "test",
    by_row: bool = False,
) -> RunComparison:
    """Compares groups of finished runs, the folders of each by name, with the best first.

    `metric` is as in `Run.best`, "max accuracy" for example; without one it is that by which the
    runs choose their best checkpoint. Groups of the same seeds are paired by seed, and no run is in
    two of them. The intervals are of the bootstrap (BCa), the tests are permutation tests, and the
    p-values of several pairs are corrected by Holm's method.

    `by_row` restores the runs and compares them on each row of the data: a difference that holds
    for other rows, of these trained runs. Two runs that are right or wrong in each row are compared
    by McNemar's test. Raises `Error` where runs are not finished, or were evaluated on other data.
    """
    if len(groups) < 2:
        raise Error("A comparison takes two groups of runs or more.")
    folders = {name: [Path(folder) for folder in group] for name, group in groups.items()}
    records = {folder: read_record(folder) for group in folders.values() for folder in group}
    _check_in_one_group(folders)
    mode, metric = _mode_and_name(records, metric)
    _check_same_data(records, split)
    scored = [_scored(name, group, records, metric, split) for name, group in folders.items()]
    scored.sort(key=lambda group: -group.mean if mode == "max" else group.mean)
    if by_row:
        of_rows = {group.name: _scores_of_rows(group, metric, split) for group in scored}
        pairs = [_by_row(b, a, of_rows, mode) for b, a in combinations(scored, 2)]
    else:
        level = LEVEL / len(list(combinations(scored, 2)))
        pairs = [_by_seed(b, a, mode, level) for b, a in combinations(scored, 2)]
    return RunComparison(metric, mode, split, scored, _corrected(pairs))


def _corrected(pairs: Sequence[Difference]) -> list[Difference]:
    """The pairs with p-values that are corrected for their number, by Holm's method."""
    if len(pairs) == 1:
        return list(pairs)
    p_values = statistics.holm([pair.p_value for pair in pairs])
    leasts = np.array([pair.least for pair in pairs])
    # Holm's correction where all pairs are at their best: times the pairs that come no earlier.
    corrected = leasts * np.array([(leasts >= least).sum() for least in leasts])
    return [
        replace(pair, p_value=p, least=min(1.0, float(least)), comparisons=len(pairs))
        for pair, p, least in zip(pairs, p_values, corrected, strict=True)
    ]


def _mode_and_name(records: Mapping[Path, Any], metric: str) -> tuple[str, str]:
    """ "max" or "min", and the name of the metric."""
    best = sorted({record["best"] for record in records.values()})
    own = [one for one in best if metric in ("", one, one.split()[1])]
    if metric.split()[:-1] in (["max"], ["min"]):
        own = [metric]
    if len(own) != 1:
        raise Error(
            f"The runs choose by {' and '.join(best)}: name the metric as one of these, or another "
            f'as "max {metric or "accuracy"}" or "min {metric or "loss"}".'
        )
    mode, name = own[0].split()
    return mode, name


def _check_in_one_group(folders: Mapping[str, Sequence[Path]]) -> None:
    """Raises `Error` where a run would be compared with itself."""
    for (a, of_a), (b, of_b) in combinations(folders.items(), 2):
        if both := {f.resolve() for f in of_a} & {f.resolve() for f in of_b}:
            raise Error(f"{min(both)} is in both {a} and {b}: name groups that share no run.")


def _check_same_data(records: Mapping[Path, Any], split: str) -> None:
    """Raises `Error` where two runs were evaluated on other data."""
    if split not in ("valid", "test"):
        raise Error(f"Runs are compared on their valid or test data, not on {split!r}.")
    of = {folder: record["data"].get(split) for folder, record in records.items()}
    first, digest = next(iter(of.items()))
    for folder, other in of.items():
        if other is None:
            raise Error(f"{folder} has no {split} data: choose --split valid or test.")
        if other != digest:
            raise Error(
                f"{first} and {folder} were evaluated on other {split} data: no comparison."
            )


def _scored(
    name: str, folders: Sequence[Path], records: Mapping[Path, Any], metric: str, split: str
) -> Scored:
    if not folders:
        raise Error(f"There are no runs of {name}.")
    folders = sorted(folders, key=lambda folder: (records[folder]["seed"], folder))
    scores = np.array([_score(folder, metric, split) for folder in folders])
    interval = statistics.bootstrap_interval(scores) if len(scores) >= FEWEST else None
    seeds, configs = [records[f]["seed"] for f in folders], {records[f]["digest"] for f in folders}
    return Scored(name, folders, seeds, scores, interval, len(configs))


def _score(folder: Path, metric: str, split: str) -> float:
    """The metric of a finished run at its end."""
    if (status := entry(folder).status) != "finished":
        raise Error(f"{folder} is {status}: train it to its end, or leave it out.")
    lines = [line for line in log.read(folder) if line["split"] == split]
    if not lines:
        raise Error(f"{folder} was not evaluated on its {split} data.")
    found = {name: v for name, v in lines[-1].items() if name not in ("step", "split")}
    if not isinstance(found.get(metric), int | float):
        raise Error(f"{folder} has no {split} metric {metric!r}, but {', '.join(found) or 'none'}.")
    if not np.isfinite(found[metric]):
        raise Error(f"The {split} {metric} of {folder} is {found[metric]}: leave the run out.")
    return float(found[metric])


def _by_seed(better: Scored, worse: Scored, mode: str, level: float) -> Difference:
    """The difference of two groups' means, over the seeds; `level` is that of each pair."""
    sign = 1 if mode == "max" else -1
    high, low = sign * better.scores, sign * worse.scores
    once = len(set(better.seeds)) == len(better.seeds)  # in a pattern a seed may come again
    paired = once and better.seeds == worse.seeds
    count = min(len(high), len(low))
    difference, interval, needed = float(high.mean() - low.mean()), None, None
    if paired and count >= FEWEST:
        interval = statistics.bootstrap_interval(high - low)
    elif count >= FEWEST:
        interval = statistics.bootstrap_interval(high, low, statistic=statistics.mean_difference)
    if difference and count > 1:
        spread = (high - low).std(ddof=1) if paired else _pooled(high, low)
        needed = statistics.seeds_needed(difference, float(spread), paired, level=level)
    return Difference(
        better.name,
        worse.name,
        difference,
        interval,
        statistics.permutation_test(low, high, paired) if count > 1 else 1.0,
        "permutation test",
        count,
        "seeds, paired" if paired else "seeds at least, not paired",
        needed if needed is not None and needed > count else None,
        statistics.smallest_p_value(len(high), len(low), paired),
        statistics.fewest_seeds(paired, level),
    )


def _pooled(a: np.ndarray, b: np.ndarray) -> float:
    """The standard deviation within two groups."""
    squares = sum(((one - one.mean()) ** 2).sum() for one in (a, b))
    return float((squares / (len(a) + len(b) - 2)) ** 0.5)


def _scores_of_rows(group: Scored, metric: str, split: str) -> np.ndarray:
    """The metric of each row of the data, a mean over the group's runs."""
    runs = []
    for folder in group.folders:
        of_rows = metrics_by_row(restore(folder), split)
        if metric not in of_rows:
            raise Error(
                f"{metric} is no mean over the rows of {folder}: --by-row compares by one of "
                f"{', '.join(of_rows) or 'none'}."
            )
        runs.append(of_rows[metric])
    return np.mean(runs, 0)


def _by_row(
    better: Scored, worse: Scored, of_rows: Mapping[str, np.ndarray], mode: str
) -> Difference:
    """The difference of two groups' means over the rows of the data."""
    of_better, of_worse = of_rows[better.name], of_rows[worse.name]
    values = of_better - of_worse if mode == "max" else of_worse - of_better
    if np.isin([of_better, of_worse], (0, 1)).all():
        test, p_value = "McNemar's test", statistics.mcnemar(of_worse, of_better)
    else:
        test = "permutation test"
        p_value = statistics.permutation_test(of_worse, of_better, paired=True)
    interval = statistics.bootstrap_interval(values, method="percentile")
    names = (better.name, worse.name)
    return Difference(
        *names, float(values.mean()), interval, p_value, test, len(values), "rows", None
    )


def _range(interval: Interval | None) -> str:
    return f"{interval.low:#.4g} to {interval.high:#.4g}" if interval else ""


def _percent(p_value: float) -> str:
    """A p-value as the percentage that a sentence says."""
    return "less than 0.1%" if p_value < 1e-3 else f"{100 * p_value:.1f}%"
