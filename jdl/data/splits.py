"""Splits of rows: random, stratified, by group and by time; row numbers, no data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from jdl.data.order import Sampling, permutation, split_rows, uniforms
from jdl.errors import Error

RowSplits = list[np.ndarray]
"""For each split its row numbers, ascending."""
Named = tuple[str, Any]
"""What rows are split or drawn by: its name in messages, and one value for each row."""
By = str | Sequence[Any] | np.ndarray | None
"""What a caller splits or draws by: a column's name, or an array of one value for each row."""


def named(argument: str, by: By, column: Callable[[str], np.ndarray]) -> Named | None:
    """What an argument names, with a name for messages; `column` gives a column by its name."""
    if by is None:
        return None
    if isinstance(by, str):
        return f"Column {by}", column(by)
    return f"The array {argument}", np.asarray(by)


def random_rows(
    rows: int,
    fractions: Sequence[float],
    seed: int,
    stratify: Named | None = None,
    group: Named | None = None,
) -> RowSplits:
    """Disjoint random splits, stratified or by group where these are given."""
    check_fractions(fractions)
    if stratify and group:
        raise Error(
            "A split is either stratified or by group: rows of a group cannot be divided to keep "
            "the classes in proportion. Leave out `stratify` or `group`."
        )
    if stratify:
        return stratified_rows(rows, fractions, seed, stratify)
    if group:
        return group_rows(rows, fractions, seed, group)
    return split_rows(rows, fractions, seed, name="split")


def fold_rows(
    rows: int, k: int, seed: int, stratify: Named | None = None, group: Named | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows (train, valid) of each of k folds, drawn like those of `random_rows`."""
    if not 2 <= k <= rows:
        raise Error(f"{rows} rows can be divided into 2 to {rows} folds, not {k}.")
    folds = random_rows(rows, [1 / k] * k, seed, stratify, group)
    return [(np.delete(np.arange(rows), fold), fold) for fold in folds]


def stratified_rows(rows: int, fractions: Sequence[float], seed: int, by: Named) -> RowSplits:
    """Stratified random splits: each has each class in the proportion of the whole.

    The splits are as large as without stratification, and each has of each class its exact share,
    rounded up or down. Raises `Error` where a split would have no row of a class.
    """
    classes, codes = class_codes(by, rows)
    sizes = np.bincount(codes)
    counts = round_table(np.outer(sizes, _sizes(rows, fractions)), rows)
    missing = np.argwhere(counts[:, : len(fractions)] == 0)
    if len(missing):
        label, split = missing[0]
        raise Error(
            f"{by[0]} has too few rows of class {classes[label]}, {sizes[label]}, for all splits: "
            f"split {split + 1} would have none of it. Ask for larger fractions or fewer folds, "
            "leave the class out by `select`, or give `stratify` an array in which rare classes "
            "are merged."
        )
    order = permutation(rows, seed, name="split")
    by_class = order[np.argsort(codes[order], kind="stable")]
    of_row = np.repeat(np.tile(np.arange(counts.shape[1]), len(counts)), counts.ravel())
    return [np.sort(by_class[of_row == split]) for split in range(len(fractions))]


def group_rows(rows: int, fractions: Sequence[float], seed: int, by: Named) -> RowSplits:
    """Random splits by group: all rows of a group are in the same split.

    From the largest group to the smallest, each goes to a random one of the splits that have room
    for it, with a probability proportional to the room, or, where none has, to that with the most
    room. Groups of equal size are so divided uniformly at random, and the small ones, which come
    last, make up for the large ones. Raises `Error` where there are fewer groups than splits.
    """
    groups, codes = np.unique(row_values(by, rows), return_inverse=True)
    if len(groups) < len(fractions):
        raise Error(f"{by[0]} has {len(groups)} groups, too few for {len(fractions)} splits.")
    room = _sizes(rows, fractions)
    open_splits = np.append(np.ones(len(fractions), bool), room[-1] > 0)  # the last: the rest
    empty = np.append(np.ones(len(fractions), bool), False)
    sizes = np.bincount(codes)
    of_group = np.empty(len(groups), int)
    draws = uniforms(len(groups), seed, name="groups")
    for place, group in enumerate(np.argsort(-sizes, kind="stable")):
        scarce = empty.sum() >= len(groups) - place
        allowed = empty if scarce else open_splits
        fits = np.where(allowed & (room >= sizes[group]), room, 0)
        if fits.any():
            split = np.searchsorted(np.cumsum(fits), draws[place] * fits.sum(), side="right")
        else:
            split = np.where(allowed, room, np.iinfo(room.dtype).min).argmax()
        of_group[group] = split
        room[split] -= sizes[group]
        empty[split] = False
    return [np.flatnonzero(of_group[codes] == split) for split in range(len(fractions))]


def time_rows(rows: int, fractions: Sequence[float], time: Named | None) -> RowSplits:
    """Splits by time: the earliest rows, those after them, and so on.

    Rows of one time are in one split: a border moves to the nearest change of time.
    """
    check_fractions(fractions)
    if time is None:
        raise Error("split_by_time needs `column`: the name of the column of times, or an array.")
    values = row_values(time, rows)
    order = np.argsort(values, kind="stable")
    times = values[order]
    changes = np.concatenate([[0], 1 + np.flatnonzero(times[1:] != times[:-1]), [rows]])
    borders = np.cumsum([0, *_sizes(rows, fractions)[: len(fractions)]])
    borders = changes[np.abs(changes[:, None] - borders).argmin(0)]
    splits = [np.sort(order[a:b]) for a, b in pairwise(borders)]
    if not all(map(len, splits)):
        raise Error(
            f"{time[0]} has {len(changes) - 1} distinct times in {rows} rows, too few for the "
            f"fractions {fractions}: the splits would have "
            f"{', '.join(str(len(split)) for split in splits)} rows."
        )
    return splits


def sampling(
    rows: int, balance: Named | None = None, weights: Named | None = None
) -> Sampling | None:
    """Weighted sampling by a class of each row, each class equally often, or by its weight.

    None where neither is given. Raises `Error` for weights of 0 or below.
    """
    if balance and weights:
        raise Error("Rows are drawn by classes or by weights: leave out `balance` or `weights`.")
    if balance:
        _, codes = class_codes(balance, rows)
        return Sampling(1 / np.bincount(codes)[codes], codes)
    if not weights:
        return None
    name, values = weights[0], row_values(weights, rows).astype(np.float64)
    wrong = np.flatnonzero(~((values > 0) & (values < np.inf)))
    if len(wrong):
        raise Error(
            f"{name} is {values[wrong[0]]:g} in row {wrong[0]}, but weights must be above 0 and "
            "finite: leave out by `select` what is never to be drawn."
        )
    return Sampling(values, np.zeros(rows, int))


def check_fractions(fractions: Sequence[float]) -> None:
    """Raises `Error` where fractions of a dataset are not above 0, or sum to more than 1."""
    if not fractions or not min(fractions) > 0 or not sum(fractions) <= 1 + 1e-9:
        raise Error(f"split takes fractions above 0 that sum to 1 at most, not {fractions}.")


def class_codes(by: Named, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of a column of classes, ascending, and each row's place among them."""
    name, values = by[0], row_values(by, rows)
    if values.dtype.kind == "f" and (values != np.rint(values)).any():
        raise Error(
            f"{name} has fractions, so its values are no classes: give an array of classes "
            "instead, such as np.digitize(values, borders)."
        )
    return np.unique(values, return_inverse=True)


def row_values(by: Named, rows: int) -> np.ndarray:
    """One value for each row, as an array; `Error` for another shape, and for NaN."""
    name, values = by[0], np.asarray(by[1])
    if values.shape != (rows,):
        cure = ""
        if values.ndim == 2:
            cure = (
                ", such as labels.argmax(1) of soft labels, or the rarest of several, labels[:, k]"
            )
        raise Error(
            f"{name} must have one value for each of the {rows} rows, but its shape is "
            f"{values.shape}: give an array ({rows},){cure}."
        )
    if (values != values).any():  # NaN, or NaT of a date
        row = int(np.flatnonzero(values != values)[0])
        raise Error(f"{name} is NaN in row {row}: replace the value, or leave such rows out.")
    return values


def round_table(numerators: np.ndarray, denominator: int) -> np.ndarray:
    """Controlled rounding (Cox, 1987) of the table (K, J) of numerators / denominator.

    Each number is rounded up or down so that all sums of rows and of columns, which must be whole
    numbers, stay as they are.
    """
    lower, remainder = np.divmod(numerators, denominator)
    up = np.zeros(lower.shape, bool)
    carry = np.zeros(lower.shape[1], np.int64)
    for row, part in enumerate(remainder):  # the error of a row is carried to the next rows
        carry += part
        ranked = np.argsort(np.where(part > 0, -carry, np.iinfo(np.int64).max), kind="stable")
        chosen = ranked[: part.sum() // denominator]
        up[row, chosen] = True
        carry[chosen] -= denominator
    while (carry < 0).any():  # a column was rounded up too often, and another not often enough
        _move_one_up(up, remainder > 0, carry, denominator)
    return lower + up


def _move_one_up(up: np.ndarray, free: np.ndarray, carry: np.ndarray, unit: int) -> None:
    """Moves one rounding up from a column with too many to one with too few, by a shortest path."""
    start = int(np.flatnonzero(carry < 0)[0])
    came_from: dict[int, tuple[int, int]] = {}
    queue = [start]
    while carry[column := queue.pop(0)] <= 0:
        movable = up[:, [column]] & ~up & free
        for other in np.flatnonzero(movable.any(0)):
            if other != start and other not in came_from:
                came_from[int(other)] = column, int(movable[:, other].argmax())
                queue.append(int(other))
    carry[[start, column]] += unit, -unit
    while column != start:
        before, row = came_from[column]
        up[row, [before, column]] = False, True
        column = before


def _sizes(rows: int, fractions: Sequence[float]) -> np.ndarray:
    """The sizes of splits by these fractions, as in `split_rows`, and that of the rest."""
    ends = np.rint(np.cumsum(fractions) * rows).astype(np.int64)
    return np.diff(ends, prepend=0, append=rows)
