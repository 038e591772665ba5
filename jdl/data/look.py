"""A first look at data: rows, ranges, classes, lengths and duplicates, split by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from typing import Any, Protocol

import numpy as np

from jdl.data.leakage import Leakage, leakage, lengths_of
from jdl.data.loader import DatasetLoader
from jdl.data.source import ArraySource
from jdl.types import Error, Loader

BYTES = 1 << 29  # of batches that are read of a split
CLASSES = 1000  # distinct integers y beyond which they are no classes
SHOWN = 20  # classes that are shown; of more, the most and the least frequent
BAR = 24  # characters of the longest bar


class Batched(Protocol):
    """What a dataset has, to be looked at."""

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Loader:
        """A loader of its rows, in order."""


@dataclass
class ColumnFacts:
    """The facts of a column, over the rows that were read, as the model sees them."""

    dtype: str
    shape: tuple[int, ...]  # of one row
    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    count: int = 0  # the number of finite values; low, high and total are of these
    zeros: int = 0
    missing: int = 0  # integers of -1: no label
    not_finite: int = 0

    def add(self, values: np.ndarray) -> None:
        """Adds these rows."""
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        self.not_finite += values.size - finite.size
        if not finite.size:
            return
        self.low, self.high = min(self.low, finite.min()), max(self.high, finite.max())
        self.total += float(finite.sum(dtype=np.float64))
        self.count += finite.size
        self.zeros += int((finite == 0).sum())
        self.missing += int((finite == -1).sum()) if values.dtype.kind == "i" else 0

    def __str__(self) -> str:
        text = "no finite value"
        if self.count:
            text = f"{self.low:.5g} to {self.high:.5g}, mean {self.total / self.count:.4g}"
        for name, count in (("0", self.zeros), ("-1", self.missing)):
            share = count / max(self.count, 1)
            shown = f"{share:.1%}" if share >= 0.001 else "under 0.1%"
            text += f", {shown} are {name}" if count else ""
        return text + (f"; {self.not_finite:,} NaN or infinite" if self.not_finite else "")


@dataclass(frozen=True)
class SplitFacts:
    """The facts of one split."""

    rows: int
    read: int  # of the rows; a random sample if not all
    batches: int  # in an epoch
    batch_size: int
    columns: Mapping[str, ColumnFacts]
    classes: Mapping[int, int]  # how often y has each class; empty if it has none
    lengths: Mapping[str, np.ndarray]  # smallest, median and largest
    drawn: Mapping[int, int] = field(default_factory=dict)  # classes in epoch 0, drawn by weight

    def __str__(self) -> str:
        row = "row" if self.rows == 1 else "rows"
        batch = "batch" if self.batches == 1 else "batches"
        text = f"{self.rows:,} {row}, {self.batches:,} {batch} of {self.batch_size:,} an epoch"
        if self.read < self.rows:
            text += f" (read here: {self.read:,} rows, drawn at random)"
        return text


@dataclass(frozen=True)
class Look:
    """What `look` finds; `str` of it is the text to read."""

    splits: Mapping[str, SplitFacts]
    labels: tuple[str, ...]  # names of the classes
    leakage: Leakage | None  # None where rows cannot be compared
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = _aligned([[name, str(facts)] for name, facts in self.splits.items()])
        found = [] if self.leakage is None else [str(self.leakage)]
        lines += ["", *self._columns(), *self._lengths(), *self._classes(), ""]
        return "\n".join([*lines, *self.notes, *found])

    __repr__ = __str__

    def _columns(self) -> list[str]:
        """A line for each column and split."""
        table = []
        for name in dict.fromkeys(chain(*(facts.columns for facts in self.splits.values()))):
            before: list[str] = []
            for split, facts in self.splits.items():
                if column := facts.columns.get(name):
                    kind = [column.dtype, "x".join(map(str, column.shape)) or "number"]
                    shown = ["", ""] if kind == before else kind
                    table.append(["" if before else name, *shown, split, str(column)])
                    before = kind
        return _aligned(table)

    def _lengths(self) -> list[str]:
        table = [
            [f"{name} of {split}:", f"{low:g} to {high:g}, median {median:g}"]
            for split, facts in self.splits.items()
            for name, (low, median, high) in facts.lengths.items()
        ]
        return ["", *_aligned(table)] if table else []

    def _classes(self) -> list[str]:
        """A line for each class: how often it is in each split."""
        counts = {name: facts.classes for name, facts in self.splits.items() if facts.classes}
        counts |= {
            f"{name}, as drawn": facts.drawn for name, facts in self.splits.items() if facts.drawn
        }
        if not counts:
            return []
        first = next(iter(counts.values()))
        ranked = sorted(set(chain(*counts.values())), key=lambda k: (-first.get(k, 0), k))
        left = max(0, len(ranked) - SHOWN)
        shown = [*ranked[: SHOWN // 2], *ranked[-SHOWN // 2 :]] if left else sorted(ranked)
        table = [["class", *counts]]
        for k in shown:
            shares = [_share(split.get(k, 0), sum(split.values())) for split in counts.values()]
            bar = "█" * round(BAR * first.get(k, 0) / max(first.values()))
            table.append([name_of(k, self.labels), *shares, bar])
        note = [f"({left:,} classes between these, by their number, are not shown)"] if left else []
        return ["", *_aligned(table), *note]


def look(labels: Sequence[str] = (), *, limit: int = BYTES, **splits: Loader | Batched) -> Look:
    """A first look at datasets or loaders: `print(jdl.data.look(train=train, test=test))`.

    For each split: its rows and batches; for each column, as batches have it (after transforms and
    data augmentation), type, shape, range, mean, the shares of 0 and of -1; how often y has each
    class; lengths; and duplicates, within a split and in two (`leakage`). Of a split whose batches
    are larger than `limit` bytes a random sample is read.
    """
    if not splits:
        raise Error("look takes datasets or loaders by name: look(train=train, test=test).")
    loaders = {name: _loader(data) for name, data in splits.items()}
    names = tuple(labels) or next((n for n in map(_labels, loaders.values()) if n), ())
    facts = {}
    for name, loader in loaders.items():
        with naming_split(name):
            facts[name] = _facts(loader, names, limit)
    tables, notes = _tables(loaders)
    read = min((f.read for f in facts.values() if f.read < f.rows), default=None)
    if tables and read:
        notes.append(f"Only the first {read:,} rows of each split were compared with each other.")
    return Look(facts, names, leakage(limit=read, **tables) if tables else None, tuple(notes))


def _loader(data: Loader | Batched) -> Loader:
    return data if isinstance(data, Loader) else data.batches(max(1, min(len(data), 256)))


def _labels(loader: Loader) -> tuple[str, ...]:
    return loader.dataset.labels if isinstance(loader, DatasetLoader) else ()


def _facts(loader: Loader, labels: tuple[str, ...], limit: int) -> SplitFacts:
    """The facts of a split, from an epoch of its batches or a part of one."""
    spec = {k: column for k, column in loader.spec.items() if k not in ("mask", "id")}
    batch_bytes = sum(int(np.prod(c.shape)) * c.dtype.itemsize for c in spec.values())
    batches = min(len(loader), max(1, limit // max(1, batch_bytes)))
    columns = {k: ColumnFacts(str(c.dtype), c.shape[1:]) for k, c in spec.items()}
    lengths: dict[str, list[np.ndarray]] = {k: [] for k in spec if f"_{k}".endswith("_length")}
    classes, read = Counter[int](), 0
    for batch in _read(_unweighted(loader, batches), batches):
        read += len(batch["mask"])
        for k, column in columns.items():
            column.add(_without_padding(batch, k))
        for k, column in lengths.items():
            column.append(batch[k])
        classes += _class_counts(batch, labels)
    drawn = Counter[int]()
    if isinstance(loader, DatasetLoader) and loader.sampling:
        for batch in _read(loader, batches):
            drawn += _class_counts(batch, labels)
    if len(classes) > CLASSES:
        classes, drawn = Counter(), Counter()
    quantiles = {k: np.percentile(np.concatenate(v), (0, 50, 100)) for k, v in lengths.items()}
    size = loader.batch_size
    found = columns, classes, quantiles, drawn
    return SplitFacts(loader.num_examples, read, len(loader), size, *found)


def _unweighted(loader: Loader, batches: int) -> Loader:
    """The loader with each row once an epoch, and in order if all its batches will be read."""
    if not isinstance(loader, DatasetLoader):
        return loader
    return replace(loader, seed=None if batches == len(loader) else loader.seed or 0, sampling=None)


def _read(loader: Loader, batches: int) -> Iterator[dict[str, np.ndarray]]:
    """The first batches without their padding."""
    for i in range(batches):
        batch = {k: np.asarray(column) for k, column in loader[i].items()}
        batch.setdefault("mask", np.ones(loader.batch_size, bool))
        yield {k: column[batch["mask"] > 0] for k, column in batch.items()}


@contextmanager
def naming_split(name: str) -> Iterator[None]:
    """Raises `Error` that names the split where its batches cannot be made."""
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, OSError) as error:
        raise Error(
            f"The batches of {name} cannot be made: {type(error).__name__}: {error}."
        ) from error


def _class_counts(batch: dict[str, np.ndarray], labels: tuple[str, ...]) -> Counter[int]:
    """How often y has each class; several labels a row, (B, K) of 0 and 1, count each."""
    if "y" not in batch or not batch["y"].size:
        return Counter()
    y = batch["y"]
    if labels and y.ndim == 2 and y.shape[1] == len(labels) and set(np.unique(y)) <= {0, 1}:
        return Counter(dict(enumerate(y.sum(0).astype(int).tolist())))
    if y.dtype.kind not in "iu" or not (labels or y.ndim == 1 or "edges" in batch):
        return Counter()
    y = _without_padding(batch, "y")
    classes, counts = np.unique(y[y >= 0], return_counts=True)
    return Counter(dict(zip(classes.tolist(), counts.tolist(), strict=True)))


def _without_padding(batch: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The values of a column; of sequences (B, T, ...) those within `length` or `y_length`."""
    column, lengths = batch[name], lengths_of(batch, name)
    if lengths is None:
        return column
    return column[np.arange(column.shape[1]) < lengths[:, None]]


def _tables(loaders: Mapping[str, Loader]) -> tuple[dict[str, Any], list[str]]:
    """The rows of the splits, to be compared with each other; and notes about them."""
    tables = {k: v.dataset for k, v in loaders.items() if isinstance(v, DatasetLoader)}
    if len(tables) < len(loaders):
        return {}, ["The rows of a loader of its own kind are not compared with each other."]
    if not all(len(table) == 1 and "edges" in loaders[k].spec for k, table in tables.items()):
        return dict(tables), []
    graphs = {k: table.take(np.zeros(1, np.int32)) for k, table in tables.items()}
    nodes, edges = (len(next(iter(graphs.values()))[name][0]) for name in ("x", "edges"))
    note = f"Each row is one graph of {nodes:,} nodes and {edges:,} edges"
    if not all("y" in graph for graph in graphs.values()):
        return {}, [f"{note}; its nodes are not compared."]
    return {k: _labelled_nodes(graph) for k, graph in graphs.items()}, [
        f"{note}; what follows compares a split's labelled nodes, and counts these from 0."
    ]


def _labelled_nodes(graph: dict[str, np.ndarray]) -> ArraySource:
    labelled = graph["y"][0] >= 0
    return ArraySource({"x": graph["x"][0][labelled], "y": graph["y"][0][labelled]})


def name_of(k: int, labels: Sequence[str]) -> str:
    """The name of a class, or its number where it has none."""
    return (labels[k] or "(empty)") if 0 <= k < len(labels) else str(k)


def sequence_text(classes: Sequence[int], labels: Sequence[str]) -> str:
    """A sequence of classes in text: their names, with no space between single characters."""
    space = " " if any(len(label) > 1 for label in labels) else ""
    return space.join(name_of(k, labels) for k in classes)


def _share(count: int, total: int) -> str:
    return f"{count:,} {count / max(total, 1):6.1%}"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, in columns of one width; shares to the right."""
    widths = [max(map(len, column)) for column in zip_longest(*table, fillvalue="")]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if cell.endswith("%") else cell.ljust(width)
            for cell, width in zip(row, widths, strict=False)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
