"""Anything with a length and an index is a dataset: rows of every kind, in memory and streamed.

Seen to fail: rows that differ when they are read again, and are taken.
"""

import sys

import grain
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

import jdl
from jdl.data import indexed

X = np.arange(24, dtype=np.float64).reshape(12, 2)
Y = np.arange(12) % 3


class Tensor:
    """The methods of a tensor of PyTorch that are called."""

    def __init__(self, value):
        self.value = value

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return np.asarray(self.value)


class MapStyle:
    """A `torch.utils.data.Dataset`; `make` makes row i."""

    def __init__(self, make, rows=12):
        self.make, self.rows = make, rows

    def __len__(self):
        return self.rows

    def __getitem__(self, i):
        if not 0 <= i < self.rows:
            raise IndexError(i)
        return self.make(i)


class Batched(MapStyle):
    """Reads many rows at once, as Hugging Face's datasets do."""

    def __getitems__(self, rows):
        return [self.make(i) for i in rows]


def array_record(folder):
    path = folder / "rows.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for x, y in zip(X, Y, strict=True):
        writer.write(x.tobytes() + bytes([y]))
    writer.close()
    return grain.sources.ArrayRecordDataSource(str(path))


def of_bytes(record):
    return {"x": np.frombuffer(record[:16]), "y": record[16]}


NAMES = {"image": "x", "label": "y"}
SOURCES = {
    "tuples of tensors": lambda _: indexed(MapStyle(lambda i: (Tensor(X[i]), int(Y[i])))),
    "dicts": lambda _: indexed(Batched(lambda i: {"image": X[i], "label": Y[i], "s": "a"}), NAMES),
    "a list": lambda _: indexed([{"y": y, "x": x} for x, y in zip(X, Y, strict=True)]),
    "a MapDataset": lambda _: indexed(grain.MapDataset.range(12).map(lambda i: (X[i], Y[i]))),
    "ArrayRecord": lambda folder: indexed(array_record(folder), decode=of_bytes),
    "streamed": lambda _: indexed(MapStyle(lambda i: (X[i], Y[i])), stream=True),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_batches(name, tmp_path):
    data, wanted = SOURCES[name](tmp_path), jdl.data.arrays(x=X, y=Y)
    assert data.fits_on_device == (name != "streamed")
    columns = data.columns
    assert (columns["x"].dtype, columns["y"].dtype) == (np.float32, np.int32)
    for i in (0, 2, 7):
        batch, same = (d.shuffled(5, 0)[i] for d in (data, wanted))
        for column in same:
            np.testing.assert_array_equal(batch[column], same[column])
    if name != "streamed":
        assert data.fingerprint == wanted.fingerprint


def test_rows_of_one_array_are_the_column_x():
    np.testing.assert_array_equal(indexed(list(X)).columns["x"], X.astype(np.float32))
    np.testing.assert_array_equal(indexed(list(X), ("z",)).columns["z"], X.astype(np.float32))


def test_a_stream_is_told_apart_by_all_its_rows_or_by_what_it_is_given():
    def stream(last, **options):
        return indexed(MapStyle(lambda i: (i if i < 11 else last,), 12), stream=True, **options)

    assert stream(1).fingerprint == stream(1).fingerprint != stream(2).fingerprint
    one, two = (stream(n, fingerprint="v1").fingerprint for n in (1, 2))
    assert one == two != stream(1, fingerprint="v2").fingerprint


def test_an_augmentation_in_the_source_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(jdl.Error, match=r"Column x of row 0 differs .*shuffled"):
        indexed(MapStyle(lambda i: (rng.random(3), i)))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i: (X[i], None if i == 7 else 1), "Column y of row 7 is no number, but None"),
        (lambda i: {"t": "a"}, "Column t of row 0 is no number, but 'a'"),
        (lambda i: (np.zeros(2 + (i == 7)),), r"Column x of row 7 has shape \(3,\), but in row 0"),
        (lambda i: {"x": 1} | ({"y": 1} if i != 7 else {}), "Column y of row 7 is missing"),
        (lambda i: (1, 2, 3), "is a tuple of 3, and columns names 2"),
        (lambda i: 1 // (i - 7), "cannot read one of the rows .*ZeroDivisionError"),
        (lambda i: (np.nan if i == 7 else 1.0,), "Column x has a NaN"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(make, message, stream):
    with pytest.raises(jdl.Error, match=message):
        indexed(MapStyle(make), stream=stream).take(np.arange(12))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (iter([1]), {}, "list_iterator has no length"),
        ([], {}, "has 0 rows"),
        (grain.MapDataset.range(3).repeat(), {}, "Leave out a `repeat"),
        ([{"a": 1}], {"columns": ("x",)}, "Row 0 has no x, but a"),
        ([{"x": 1, "labels": 1}], {}, "No column can have the name labels"),
        ([{"id": 1}], {"stream": True}, "No column can have the name id"),
        ([b"1"], {"decode": lambda record: record.gone}, "decode fails for row 0: AttributeError"),
    ],
)
def test_what_is_no_source_is_refused(source, options, message):
    with pytest.raises(jdl.Error, match=message):
        indexed(source, **options)


def test_a_large_source_is_streamed(monkeypatch):
    """The module and its function have one name: the module is found by its path."""
    assert indexed(list(X)).fits_on_device
    monkeypatch.setattr(sys.modules["jdl.data.indexed"], "MEMORY_BYTES", 12 * 2 * 4 - 1)
    assert not indexed(list(X)).fits_on_device
