"""The results of a report: each metric over the seeds of a config, and which config is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jdl import statistics
from jdl.inspect.compare_runs import FEWEST, compare_runs
from jdl.report.document import Section, Table
from jdl.report.groups import Group
from jdl.statistics import Interval
from jdl.types import Error

SPLITS = ("test", "valid", "score")  # the first that the runs have is that of the results
COMPARED = 6  # groups at most: of more, the pairs are too many to read


@dataclass(frozen=True)
class Score:
    """A metric of the runs of a config: its mean over the seeds, and how sure that is."""

    values: np.ndarray
    interval: Interval | None  # of the mean, 95%; None of fewer than five runs

    def __str__(self) -> str:
        if not len(self.values):
            return "–"
        mean = f"{self.values.mean():#.4g}"
        if self.interval:
            return f"{mean} ({self.interval.low:#.4g} to {self.interval.high:#.4g})"
        if len(self.values) > 1:
            return f"{mean} ({self.values.min():#.4g} to {self.values.max():#.4g}, all)"
        return mean


def score(group: Group, split: str, metric: str) -> Score:
    """A metric at the end of the runs of a group that are finished and have it."""
    found = [run.final(split).get(metric) for run in group.finished]
    values = np.array([value for value in found if value is not None and np.isfinite(value)])
    enough = len(values) >= FEWEST
    return Score(values, statistics.bootstrap_interval(values) if enough else None)


def splits_of(groups: Sequence[Group]) -> list[str]:
    """The splits that some of the runs were evaluated on, that of the results first."""
    found = {line["split"] for group in groups for run in group.runs for line in run.lines}
    return [split for split in SPLITS if split in found]


def metrics_of(groups: Sequence[Group], split: str) -> list[str]:
    """The metrics of a split, those that choose the best checkpoints first."""
    best = dict.fromkeys(run.entry.metric for group in groups for run in group.runs)
    found = dict.fromkeys(
        name for group in groups for run in group.runs for name in run.final(split)
    )
    return [
        *(name for name in best if name in found),
        *(name for name in found if name not in best),
    ]


def results(groups: Sequence[Group]) -> tuple[Section, list[str]]:
    """The section of the results, and the verdict on the best two configs where there is one."""
    splits = splits_of(groups)
    sentences, tables, folded = [], [], []
    for split in splits[:1]:
        names = metrics_of(groups, split)
        chief = [name for name in names if "/" not in name] or names[:1]
        best = [name for name in names[:1] if name not in chief]
        tables.append(_wide(groups, split, [*best, *chief]))
    for split in splits or ["train"]:
        folded.append(_long(groups, split))
    if not splits:
        sentences.append(
            "There is no result: no run was evaluated on validation or test data. Give the script "
            "test= or valid=."
        )
    elif splits[0] == "valid":
        sentences.append("The runs have no test split: these are numbers of the validation split.")
    counts = {len(group.finished) for group in groups}
    if max(counts) >= FEWEST:
        sentences.append(
            "In brackets: the 95% interval of the mean over seeds (bootstrap, BCa), or where there "
            f"are fewer than {FEWEST} seeds the smallest and the largest."
        )
    elif max(counts) > 1:
        sentences.append("In brackets: the smallest and the largest over the seeds.")
    elif splits and counts == {1}:
        sentences.append("Each config has one run, so nothing says how much its seed matters.")
    verdicts = comparisons(groups, splits[0]) if len(groups) > 1 and splits else []
    return Section("Results", [*sentences, *verdicts[1:]], tables, folded=folded), verdicts[:1]


def comparisons(groups: Sequence[Group], split: str) -> list[str]:
    """Which config is better, in sentences, of those with the same data and the same metric."""
    alike: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        data = str(group.first.record["data"].get(split))
        alike.setdefault((group.first.record["best"], data), []).append(group)
    if all(len(found) < 2 for found in alike.values()):
        return ["No comparison: no two configs have the same evaluation data and the same metric."]
    return [text for found in alike.values() if len(found) > 1 for text in _verdicts(found, split)]


def _verdicts(groups: Sequence[Group], split: str) -> list[str]:
    folders = {group.name: [run.folder for run in group.finished] for group in groups}
    folders = {name: found for name, found in folders.items() if found}
    if len(folders) < 2:
        return ["No comparison: it takes two configs with finished runs."]
    if len(folders) > COMPARED:
        return [f"No comparison of {len(folders)} configs: report up to {COMPARED} of them."]
    try:
        return [str(pair) for pair in compare_runs(folders, split=split).pairs]
    except Error as error:
        return [f"No comparison: {error}"]


def _wide(groups: Sequence[Group], split: str, names: Sequence[str]) -> Table:
    """A row for each config, a column for each metric."""
    rows = []
    for group in groups:
        done, every = len(group.finished), len(group.runs)
        count = f"{done:,}" if done == every else f"{done:,} of {every:,}"
        rows.append([group.name, count, *(str(score(group, split, name)) for name in names)])
    return Table(["config", "finished runs", *names], rows, f"Metrics of the {split} split")


def _long(groups: Sequence[Group], split: str) -> Table:
    """A row for each config and metric."""
    rows = []
    for group in groups:
        for name in metrics_of([group], split):
            values = score(group, split, name).values
            if len(values):
                numbers = (values.mean(), values.std(ddof=1) if len(values) > 1 else np.nan)
                numbers += (values.min(), values.max())
                shown = ["–" if np.isnan(v) else f"{v:#.4g}" for v in numbers]
                rows.append([group.name, name, f"{len(values):,}", *shown])
    head = ["config", "metric", "runs", "mean", "standard deviation", "smallest", "largest"]
    return Table(head, rows, f"All metrics of the {split} split at the end")
