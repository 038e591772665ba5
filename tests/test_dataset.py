"""Datasets: batches by step, no example lost or counted twice, wherever the rows are kept.

Seen to fail: datasets that were added in spite of other sources or transforms; columns and the
key of a loader that are kept as tracers; a `repr` that prints all rows.
"""

from dataclasses import replace
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_table import AUGMENT, IMAGES, ROWS

import jdl
from jdl.data import arrays, digits, normalize, random_flip
from jdl.data.order import epoch_order, permutation


@pytest.fixture(params=["on the device", "streaming"])
def dataset(request):
    table = arrays(x=IMAGES, y=np.arange(ROWS) % 3, labels="abc")
    return table if request.param == "on the device" else table.streaming()


def test_it_is_shown_in_one_line(dataset):
    shape = list(IMAGES.shape[1:])
    text = f"Dataset({ROWS} rows: x {IMAGES.dtype}{shape}, y int32, id int32)"
    assert repr(dataset) == text
    assert repr(dataset.batches(4)).startswith(f"DatasetLoader(dataset={text}")
    assert repr(dataset.select(slice(0))) == "Dataset(0 rows)"


def ids_of(*batches):
    return [
        k for batch in batches for k in np.asarray(batch["id"])[np.asarray(batch["mask"])].tolist()
    ]


def test_every_epoch_has_each_example_once_in_an_order_of_its_own(dataset):
    data = dataset.shuffled(8, seed=3)
    assert len(data) == 3
    epochs = [ids_of(*(data[e * 3 + i] for i in range(3))) for e in range(3)]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != ids_of(*(dataset.shuffled(8, seed=4)[i] for i in range(3)))


def test_batches_have_one_size_and_the_last_is_masked(dataset):
    data = dataset.batches(8)
    batches = [data[i] for i in range(len(data))]
    assert [int(batch["mask"].sum()) for batch in batches] == [8, 8, 7]
    assert {column.shape[0] for batch in batches for column in batch.values()} == {8}
    assert ids_of(*batches) == list(range(ROWS))
    np.testing.assert_array_equal(batches[1]["x"], IMAGES[8:16] * np.float32(1 / 255))
    assert batches[0]["x"].dtype == jnp.float32
    assert batches[0]["y"].dtype == jnp.int32


def test_reading_from_any_step_gives_the_batches_of_those_steps(dataset):
    data = dataset.shuffled(5, 0, *AUGMENT)
    make = jax.jit(data.batch)
    for start in (0, 3, 11):
        for i, source in enumerate(islice(data.read(start), 7), start):
            read = make(source, jnp.asarray(i, jnp.int32))
            jax.tree.map(np.testing.assert_array_equal, read, data[i])


def test_kept_on_the_device_or_streamed_the_bits_are_the_same():
    table = arrays(x=IMAGES, y=np.arange(ROWS) % 3)
    first, second = (t.shuffled(5, 1, *AUGMENT) for t in (table, table.streaming()))
    assert table.fits_on_device
    assert not table.streaming().fits_on_device
    for i in (0, 4, 5, 9, 17):
        jax.tree.map(np.testing.assert_array_equal, first[i], second[i])
    assert first.fingerprint == second.fingerprint


def test_a_first_batch_within_a_trace_spoils_no_later_one(dataset):
    loader = dataset.shuffled(4, 0, *AUGMENT)
    jax.eval_shape(lambda: loader[0])
    expected = replace(loader)[0]
    jax.tree.map(np.testing.assert_array_equal, loader[0], expected)


def test_augmentation_belongs_to_the_example_and_the_epoch():
    """However an epoch is cut into batches, example k of it is the same; in the next it differs."""
    table = arrays(x=IMAGES, y=np.arange(ROWS) % 3)

    def views(size, epoch):
        data = table.shuffled(size, 0, *AUGMENT)
        batches = [data[epoch * len(data) + i] for i in range(len(data))]
        return {
            k: x
            for b in batches
            for k, x in zip(ids_of(b), np.asarray(b["x"])[np.asarray(b["mask"])], strict=True)
        }

    first, other_cut, later = views(8, 0), views(5, 0), views(8, 1)
    for k in range(ROWS):
        np.testing.assert_array_equal(first[k], other_cut[k])
    assert sum((first[k] != later[k]).any() for k in range(ROWS)) > ROWS // 2


def test_the_order_is_pinned():
    """Resumed runs rely on it: with a change, jdl.store.checkpoints.FORMAT has to be raised."""
    assert permutation(10, seed=0, epoch=0).tolist() == PINNED[0]
    assert permutation(10, seed=1, epoch=2).tolist() == PINNED[1]
    assert epoch_order(5, 4, None, 0).tolist() == [0, 1, 2, 3, 4, 0, 0, 0]


PINNED = [[9, 8, 6, 0, 1, 5, 4, 7, 3, 2], [9, 0, 2, 7, 3, 4, 5, 8, 6, 1]]


def test_split_gives_disjoint_parts_by_seed():
    table = arrays(x=np.arange(50, dtype=np.float32), y=np.arange(50))
    parts = table.split(0.6, 0.2, 0.2, seed=1)
    assert [len(part) for part in parts] == [30, 10, 10]
    assert sorted(np.concatenate([part.ids for part in parts])) == list(range(50))
    np.testing.assert_array_equal(parts[0].ids, table.split(0.6, seed=1)[0].ids)
    assert parts[0].ids.tolist() != table.split(0.6, seed=2)[0].ids.tolist()
    batch = parts[1].batches(10)[0]
    np.testing.assert_array_equal(batch["y"], batch["id"])


def test_select_takes_rows_by_their_places():
    table = arrays(x=np.arange(10.0), y=np.arange(10) % 3, labels="abc").select([7, 2, 5])
    assert table.ids.tolist() == [7, 2, 5]
    assert table.select(slice(1, 3)).columns["x"].tolist() == [2, 5]
    assert table.labels == ("a", "b", "c")


def test_columns_are_those_of_the_source_in_the_order_of_the_dataset():
    table = arrays(x=IMAGES, y=np.arange(ROWS) % 3).map(normalize(0.5, 0.2)).select([3, 1])
    assert sorted(table.columns) == ["x", "y"]
    np.testing.assert_array_equal(table.columns["x"], IMAGES[[3, 1]])
    assert table.columns["y"].tolist() == [0, 1]


def test_folds_can_be_joined_to_train_on():
    table = arrays(x=IMAGES, y=np.arange(ROWS) % 3).map(normalize(0.5, 0.2))
    folds = table.split(*[1 / 4] * 4, seed=2)
    train, held_out = folds[0] + folds[2] + folds[3], folds[1]
    assert sorted([*train.ids, *held_out.ids]) == list(range(ROWS))
    assert train.ids.tolist() == [k for n in (0, 2, 3) for k in folds[n].ids.tolist()]
    x, whole = (data.batches(4)[0]["x"] for data in (train, table.select(train.ids)))
    np.testing.assert_array_equal(x, whole)
    assert train.fingerprint == table.select(train.ids).fingerprint
    assert len(folds[0] + folds[0]) == 2 * len(folds[0])
    assert not (folds[0] + folds[1].streaming()).fits_on_device
    again = arrays(x=IMAGES, y=np.arange(ROWS) % 3).select(folds[1].ids)  # another source, as good
    both = folds[0] + again.map(*table.transforms)
    assert both.fingerprint == (folds[0] + folds[1]).fingerprint


def test_datasets_that_do_not_go_together_are_not_added():
    one, other = arrays(x=IMAGES), arrays(x=IMAGES[::-1])
    with pytest.raises(jdl.Error, match="different sources"):
        one + other
    with pytest.raises(jdl.Error, match="same transforms"):
        one + one.map(random_flip())
    with pytest.raises(TypeError):
        one + 1


def test_columns_are_added_to_rows_in_their_order():
    table = arrays(x=IMAGES, y=np.arange(ROWS) % 3)
    rows = table.select(np.arange(ROWS)[::-2])
    more = rows.with_columns(score=2.0 * rows.ids)
    for batch in (more.shuffled(4, 0)[1], more.streaming().split(0.5, 0.5)[1].batches(2)[0]):
        np.testing.assert_array_equal(batch["score"], 2 * np.asarray(batch["id"]))
    assert rows.fingerprint != more.fingerprint
    assert more.fingerprint != rows.with_columns(score=3.0 * rows.ids).fingerprint
    assert more.bounds["score"] == (2 * rows.ids.min(), 2 * rows.ids.max())
    assert more.bounds["y"] == table.bounds["y"]
    with pytest.raises(jdl.Error, match="has a column y already"):
        rows.with_columns(y=rows.ids)
    with pytest.raises(jdl.Error, match=f"has {ROWS} entries, but the dataset has {len(rows)}"):
        rows.with_columns(score=np.arange(ROWS))
    with pytest.raises(jdl.Error, match="has no rows"):
        rows.select([]).with_columns(score=np.ones(0))


def test_fingerprints_follow_the_content():
    def fingerprint(**columns):
        return arrays(**columns).fingerprint

    x = np.arange(6, dtype=np.float32)
    one = fingerprint(x=x)
    assert one == fingerprint(x=x.copy())
    different = [
        fingerprint(x=x + 1),
        fingerprint(z=x),
        fingerprint(x=x.reshape(6, 1)),
        fingerprint(x=x[:5]),
    ]
    assert len({one, *different, arrays(x=x).split(0.5)[0].fingerprint}) == 6


def test_digits_are_the_real_ones():
    train, test = digits()
    assert (len(train), len(test)) == (1438, 359)
    assert not set(train.ids) & set(test.ids)
    batch = train.batches(1438)[0]
    assert batch["x"].shape == (1438, 8, 8, 1)
    assert float(batch["x"].min()) == 0
    assert float(batch["x"].max()) == 1
    assert set(np.asarray(batch["y"]).tolist()) == set(range(10))
    (whole,) = digits(1.0)
    assert whole.ids.tolist() == list(range(1797))  # the order of scikit-learn
    order = np.argsort((train + test).ids)
    np.testing.assert_array_equal((train + test).select(order).columns["x"], whole.columns["x"])
    assert [len(part) for part in digits(0.5, 0.25, 0.25)] == [898, 450, 449]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: arrays(x=[np.zeros((2, 2)), np.zeros((2, 3))]),
            r"number 0 is \(2, 2\) and number 1 is \(2, 3\)",
        ),
        (
            lambda: arrays(x=np.asarray([0.0, np.nan])),
            "NaN or infinite value, or one too large for float32, first in row 1",
        ),
        (lambda: arrays(x=np.zeros(3), y=np.zeros(4)), "same number of rows"),
        (lambda: arrays(x=np.zeros(3), id=np.zeros(3)), "none of them id"),
        (lambda: arrays(), "at least one column"),
        (lambda: arrays(x=np.asarray(["a"])), "must hold numbers"),
        (lambda: arrays(y=np.asarray([2**40])), "32 bits"),
        (lambda: arrays(x=np.zeros(3)).batches(0), "at least 1"),
        (lambda: arrays(x=np.zeros(3)).batches(-5), "not -5"),
        (lambda: arrays(x=np.zeros(3)).shuffled("32", 0), "a whole number, not '32'"),
        (
            lambda: arrays(x=np.zeros(3)).map(lambda e: e),
            r"called with \(key, example\), and <lambda>\(e\) cannot be",
        ),
        (lambda: arrays(x=np.zeros(3)).shuffled(2, 0, 0.5), "and 0.5 cannot be"),
        (lambda: arrays(x=np.zeros(3)).shuffled(4, 0), "larger than the dataset, which has 3"),
        (lambda: arrays(x=np.zeros((0, 2))).batches(1), "no examples"),
        (lambda: arrays(x=np.zeros(3)).split(0.9, 0.2), "sum to 1 at most"),
        (lambda: normalize(0.5, 0.0), "above 0"),
        (lambda: arrays(x=np.asarray([0.0, 1e300])), "too large for float32, first in row 1"),
        (lambda: arrays(x=np.zeros(3)).split(0.9, 0.1), "3 rows are too few: .* 3, 0 rows"),
    ],
)
def test_refusals_name_what_is_wrong(make, message):
    with pytest.raises(jdl.Error, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "largest"),
    [
        ("x", (4, 2, 2, 1), np.float32, 1.0),  # images
        ("x", (4, 2, 2), np.int32, 255),
        ("x", (4,), np.int32, 255),
        ("y", (4, 2, 2, 1), np.int32, 255),  # the labels of pixels
    ],
)
def test_bytes_are_images_where_they_have_four_axes_and_are_no_target(name, shape, dtype, largest):
    batch = arrays(**{name: np.full(shape, 255, np.uint8)}).batches(2)[0]
    assert batch[name].dtype == dtype
    assert float(batch[name].max()) == largest


def test_whole_numbers_are_normalized_as_floats():
    table = arrays(x=np.asarray([[1], [3]])).map(normalize(2, 0.5))
    np.testing.assert_array_equal(table.batches(2)[0]["x"], [[-2.0], [2.0]])
