"""Splits, folds and sampling: nothing on both sides, proportions kept, functions of the seed.

Seen to fail: a table rounded row by row, stratified splits of the wrong rows, groups divided by
rows, borders in time that cut ties, folds whose training part has all rows, a column read with
gaps, sampling without strata, in a fixed order, with independent draws or of one epoch, rows of
neighboring weights that exclude each other, an order class by class, copies with one augmentation.
"""

import hashlib
from itertools import combinations, islice, pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_table import IMAGES, ROWS
from sklearn.model_selection import GroupKFold, StratifiedKFold

import jdl
from jdl.data import arrays
from jdl.data.order import epoch_order
from jdl.data.splits import group_rows, round_table, sampling, stratified_rows, time_rows

shares = st.lists(st.integers(1, 9), min_size=2, max_size=4)
seeds = st.integers(0, 9)


def fractions_of(parts):
    return [part / sum(parts) for part in parts]


def once_each(splits, rows):
    return sorted(np.concatenate(splits).tolist()) == list(range(rows))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), shares)
def test_a_table_is_rounded_up_or_down_and_keeps_its_sums(sizes, parts):
    sizes, rows = np.asarray(sizes), sum(sizes)
    ends = np.rint(np.cumsum(fractions_of(parts)) * rows).astype(int)
    columns = np.diff(ends, prepend=0)
    exact = np.outer(sizes, columns)
    rounded = round_table(exact, rows)
    np.testing.assert_array_equal(rounded.sum(0), columns)
    np.testing.assert_array_equal(rounded.sum(1), sizes)
    assert (np.abs(rounded * rows - exact) < rows).all()


def test_a_table_is_mended_where_its_rows_were_rounded_rashly():
    """Here the first row takes one up in the columns 0 and 1, which leaves the last row none."""
    halves = np.asarray([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]])
    rounded = round_table(halves, 2)
    assert (rounded.sum(0).tolist(), rounded.sum(1).tolist()) == ([1, 1, 1, 1], [2, 1, 1])
    assert (rounded <= halves).all()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(20, 60), min_size=1, max_size=5),
    st.lists(st.integers(2, 5), min_size=2, max_size=4),
    seeds,
)
def test_stratified_splits_have_each_class_in_proportion(sizes, parts, seed):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    fractions = fractions_of(parts)
    table = arrays(x=np.arange(len(y)), y=y)
    splits = table.split(*fractions, seed=seed, stratify="y")
    assert once_each([split.ids for split in splits], len(y))
    assert [len(split) for split in splits] == [len(split) for split in table.split(*fractions)]
    for split in splits:
        for k, size in zip(np.unique(y), sizes, strict=True):
            share = size * len(split) / len(y)
            assert abs((split.column("y") == k).sum() - share) < 1
        assert (np.diff(split.ids) > 0).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=6, max_size=40), shares, seeds)
def test_no_group_is_in_two_splits_and_the_sizes_are_near(sizes, parts, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rows, fractions = len(groups), fractions_of(parts)
    splits = group_rows(rows, fractions, seed, ("group", groups))
    assert once_each(splits, rows)
    assert all(map(len, splits))
    for one, other in combinations(splits, 2):
        assert not set(groups[one]) & set(groups[other])
    for split, fraction in zip(splits, fractions, strict=True):
        assert len(split) <= fraction * rows + max(sizes) + 1


def test_small_groups_make_up_for_the_large_ones_and_equal_ones_are_split_at_random():
    groups = np.repeat(np.arange(60), 1 + np.arange(60) % 20)
    for seed in range(5):
        sizes = [len(part) for part in group_rows(630, (0.6, 0.2, 0.2), seed, ("g", groups))]
        assert np.abs(np.subtract(sizes, [378, 126, 126])).max() <= 1
    pairs, held_out = np.arange(40) // 2, np.zeros(20)
    for seed in range(200):
        held_out[np.unique(pairs[group_rows(40, (0.8, 0.2), seed, ("g", pairs))[1]])] += 1
    assert held_out.sum() == 200 * 4
    assert 20 <= held_out.min() <= held_out.max() <= 62  # 40 expected, 5.7 standard deviation


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=12, max_size=40))
def test_splits_by_time_are_in_order_and_cut_no_ties(times):
    times = np.asarray(times)
    try:
        splits = time_rows(len(times), (0.6, 0.2, 0.2), ("time", times))
    except jdl.Error:  # too many ties
        assert np.bincount(times).max() > 0.1 * len(times)
        return
    assert once_each(splits, len(times))
    for earlier, later in pairwise(splits):
        assert times[earlier].max() < times[later].min()
    ties = np.bincount(times).max()
    assert abs(len(splits[0]) - 0.6 * len(times)) <= ties / 2 + 1


@pytest.mark.parametrize("by", [{}, {"stratify": "y"}, {"group": "g"}])
def test_folds_add_up_to_the_whole(by):
    table = arrays(x=np.arange(101.0), y=np.arange(101) % 3, g=np.arange(101) // 4)
    folds = table.folds(5, seed=1, **by)
    assert once_each([valid.ids for _, valid in folds], 101)
    for train, valid in folds:
        assert once_each([train.ids, valid.ids], 101)
        assert 19 <= len(valid) <= 22
    if not by:  # as before `folds` existed
        assert [v.ids.tolist() for _, v in folds] == [
            part.ids.tolist() for part in table.split(*[1 / 5] * 5, seed=1)
        ]


def test_folds_have_the_sizes_of_scikit_learn():
    y = np.random.default_rng(0).integers(0, 4, 203)
    ours = [np.bincount(y[v.ids]) for _, v in arrays(x=y, y=y).folds(7, stratify="y")]
    theirs = [np.bincount(y[v]) for _, v in StratifiedKFold(7).split(y, y)]
    np.testing.assert_array_equal(np.sort(ours, 0), np.sort(theirs, 0))
    groups = np.arange(120) // 6
    ours = [len(valid) for _, valid in arrays(x=groups).folds(5, group=groups)]
    theirs = [len(valid) for _, valid in GroupKFold(5).split(groups, groups=groups)]
    assert sorted(ours) == sorted(theirs)


def test_splits_and_draws_are_pinned():
    """They are functions of the seed: across versions of jdl, NumPy and Python."""
    y, groups = np.arange(60) % 5, np.arange(60) // 7
    weights = 1.0 + np.arange(60)
    found = {
        "stratified": stratified_rows(60, (0.6, 0.4), 3, ("y", y))[1],
        "groups": group_rows(60, (0.6, 0.4), 3, ("g", groups))[1],
        "balance": sampling(60, balance=("y", y**2)).draw(3, 2),
        "weights": sampling(60, weights=("w", weights)).draw(3, 2),
    }
    digests = {
        name: hashlib.sha256(rows.astype("<i4").tobytes()).hexdigest()[:12]
        for name, rows in found.items()
    }
    assert digests == PINNED


PINNED = {
    "stratified": "a9670d4d8ec3",
    "groups": "6734e10c2103",
    "balance": "38c8162a272d",
    "weights": "e2bd3d95cd25",
}


def test_balanced_epochs_have_each_class_equally_often():
    y = np.repeat([0, 1, 2], [900, 90, 11])
    drawn = sampling(len(y), balance=("y", y))
    epochs = [drawn.draw(0, epoch) for epoch in range(40)]
    for rows in epochs:
        assert set(np.bincount(y[rows])) <= {333, 334}
        for k, size in enumerate((900, 90, 11)):
            copies = np.bincount(rows, minlength=len(y))[y == k]
            share = len(y) / 3 / size
            assert np.floor(share) <= copies.min() <= copies.max() <= np.ceil(share)
    common = np.mean([np.bincount(rows, minlength=len(y))[:900] for rows in epochs], 0)
    assert abs(common - 1001 / 2700).max() < 0.32  # the standard deviation is 0.076
    neighbors = np.mean([{0, 1} <= set(rows.tolist()) for rows in epochs])
    assert 0.02 < neighbors < 0.4  # 0.137 if independent; in a fixed order it would be 0


def test_rows_are_drawn_by_their_weights_with_less_scatter_than_independently():
    weights = np.random.default_rng(0).uniform(0.1, 4, 50)
    expected = 50 * weights / weights.sum()
    drawn = sampling(50, weights=("w", weights))
    counts = np.asarray([np.bincount(drawn.draw(1, e), minlength=50) for e in range(300)])
    assert (np.abs(counts - expected) < 1 + 1e-9).all()
    assert np.abs(counts.mean(0) - expected).max() < 0.12  # standard deviation 0.029 at most
    light = counts[:, np.argsort(weights)[:4]] > 0
    assert light.sum(1).max() > 1  # in the order of the weights only one would be in an epoch


def test_an_order_by_weights_is_a_function_of_seed_and_epoch():
    drawn = sampling(40, balance=("y", np.arange(40) // 30))
    orders = {(s, e): epoch_order(40, 16, s, e, drawn).tolist() for s in (0, 1) for e in (0, 1, 2)}
    assert len({tuple(order) for order in orders.values()}) == 6
    assert sorted(orders[0, 0]) != sorted(orders[0, 1]) != sorted(orders[1, 1])  # other rows
    assert orders[1, 2] == epoch_order(40, 16, 1, 2, drawn).tolist()
    assert orders[0, 0][40:] == [0] * 8
    y = np.asarray(orders[0, 0][:40]) // 30
    assert 2 < y[:16].sum() < 14  # shuffled: not class by class


def test_weighted_batches_are_the_same_streamed_resumed_and_in_parts():
    by, crop = {"weights": 1.0 + np.arange(ROWS)}, jdl.data.random_crop(2)
    table = arrays(x=IMAGES, y=np.arange(ROWS) // 15)
    kept = table.shuffled(6, 1, crop, **by)
    streamed = table.streaming().shuffled(6, 1, crop, **by)
    for i in (0, 3, 4, 9):
        jax.tree.map(np.testing.assert_array_equal, kept[i], streamed[i])
    make = jax.jit(streamed.batch)
    for i, raw in enumerate(islice(streamed.read(5), 2), 5):
        jax.tree.map(np.testing.assert_array_equal, make(raw, jnp.asarray(i)), kept[i])
    part = next(streamed.shard(slice(2, 4)).read(4))["columns"]["id"]
    np.testing.assert_array_equal(part, kept[4]["id"][2:4])
    assert kept.fingerprint == streamed.fingerprint != table.shuffled(6, 1).fingerprint
    assert kept.num_examples == ROWS


def test_the_copies_of_a_row_are_augmented_differently():
    table = arrays(x=IMAGES, y=np.arange(ROWS) // 22)  # the last row is a class of its own
    data = table.shuffled(ROWS, 0, jdl.data.random_crop(2), balance="y")
    batch = data[0]
    copies = np.asarray(batch["x"])[np.asarray(batch["id"]) == ROWS - 1]
    assert len(copies) in (11, 12)
    assert len({copy.tobytes() for copy in copies}) > 5


def test_columns_are_read_in_parts(monkeypatch):
    table = arrays(x=IMAGES, y=np.arange(ROWS)).select(np.arange(ROWS)[::-1])
    monkeypatch.setattr("jdl.data.dataset.PART", 4)
    np.testing.assert_array_equal(table.column("y"), np.arange(ROWS)[::-1])
    with pytest.raises(jdl.Error, match="no column 'z'; the columns are x, y"):
        table.column("z")


TABLE = arrays(x=np.arange(12.0) / 8, y=np.arange(12) // 11, soft=np.full((12, 2), 0.5))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: TABLE.split(0.5, 0.5, stratify="y"), r"Column y has too few rows of class 1, 1"),
        (lambda: TABLE.split(0.5, 0.5, stratify="x"), "fractions, so its values are no classes"),
        (lambda: TABLE.split(0.5, 0.5, stratify="soft"), r"argmax\(1\)"),
        (lambda: TABLE.split(0.5, 0.5, stratify=np.arange(3)), "each of the 12 rows"),
        (lambda: TABLE.split(0.5, 0.5, stratify="y", group="y"), "either stratified or by group"),
        (lambda: TABLE.split(0.4, 0.3, 0.3, group="y"), "2 groups, too few for 3"),
        (lambda: TABLE.split(0.5, float("nan")), "fractions above 0"),
        (lambda: TABLE.split_by_time(0.4, 0.3, 0.3, column="y"), "2 distinct times in 12 rows"),
        (lambda: TABLE.split_by_time(0.4, column=np.full(12, np.nan)), "NaN in row 0"),
        (lambda: TABLE.folds(1), "2 to 12 folds, not 1"),
        (lambda: TABLE.folds(13), "2 to 12 folds, not 13"),
        (lambda: TABLE.shuffled(4, 0, weights="x"), "is 0 in row 0"),
        (lambda: TABLE.shuffled(4, 0, weights=-np.ones(12)), "is -1 in row 0"),
        (lambda: TABLE.shuffled(4, 0, weights=np.full(12, np.nan)), "NaN in row 0"),
        (lambda: TABLE.shuffled(4, 0, weights=np.full(12, np.inf)), "is inf in row 0"),
        (lambda: TABLE.shuffled(4, 0, balance="soft"), r"argmax\(1\)"),
        (lambda: TABLE.shuffled(4, 0, balance="y", weights="y"), "leave out `balance` or"),
    ],
)
def test_refusals(ask, message):
    with pytest.raises(jdl.Error, match=message):
        ask()
