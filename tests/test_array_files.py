"""Arrays in files: .npz and HDF5, whole and streamed, and files that are damaged or hostile.

Seen to fail: rows in the file's order, sizes of an npz that are not compared, a type of HDF5 that
NumPy lacks (by the fuzz).
"""

import io
import os
import pickle
import zipfile

import h5py
import numpy as np
import pytest

import jdl
from jdl.data.array_files import HDF5Rows, file_sha256
from jdl.data.array_files import _read_rows as read_rows

X = np.random.default_rng(0).random((40, 3))
Y = np.arange(40, dtype=np.int16)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "my data 📦"
    path.mkdir()
    return path


def npz(folder, **arrays):
    np.savez_compressed(folder / "a.npz", **arrays or {"images": X, "labels": Y})
    return folder / "a.npz"


def hdf5(folder, **options):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("train/images", data=X, **options)
        file["labels"] = Y
        file["names"] = np.array([b"a"] * 40, dtype="S1")
        file["one"] = 3
        file["short"] = np.zeros(3)
    return folder / "a.h5"


LAYOUTS = {
    "contiguous": {},
    "chunks": {"chunks": (7, 2)},
    "compressed": {"chunks": (7, 3), "compression": "gzip", "shuffle": True},
    "big-endian": {"dtype": ">f8"},
}


def test_an_npz_file_is_a_dataset(folder):
    wanted = jdl.data.arrays(x=X, y=Y)
    data = jdl.data.npz(npz(folder), x="images", y="labels", labels=["a", "b"])
    assert data.labels == ("a", "b")
    assert data.fingerprint == wanted.fingerprint
    assert set(jdl.data.npz(npz(folder, a=X, b=Y)).columns) == {"a", "b"}
    with pytest.raises(jdl.Error, match="No column can have the name labels"):
        jdl.data.npz(npz(folder))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stream", [False, True])
def test_an_hdf5_file_gives_the_same_batches(folder, layout, stream):
    path, wanted = hdf5(folder, **LAYOUTS[layout]), jdl.data.arrays(x=X, y=Y)
    data = jdl.data.hdf5(path, stream=stream, x="train/images", y="labels")
    assert data.fits_on_device != stream
    for i in (0, 3, 5):
        batch, same = (d.shuffled(16, 0)[i] for d in (data, wanted))
        for column in same:
            np.testing.assert_array_equal(batch[column], same[column])


def test_each_chunk_is_read_once_and_no_other():
    class Chunked:
        """Notes the slices that are read."""

        chunks, nbytes, read = (10, 3), X.nbytes, []

        def __len__(self):
            return len(X)

        def __getitem__(self, rows):
            self.read.append((rows.start, rows.stop))
            return X[rows]

    array = Chunked()
    rows = np.array([38, 3, 3, 31, 5, 19])
    np.testing.assert_array_equal(read_rows(array, rows), X[rows])
    assert array.read == [(3, 6), (19, 20), (31, 39)]


def test_a_column_is_read_without_the_others(folder, monkeypatch):
    data = jdl.data.hdf5(hdf5(folder), stream=True, x="train/images", y="labels")
    read = []

    def noted(array, rows):
        read.append((array.name, len(rows)))
        return read_rows(array, rows)

    monkeypatch.setattr("jdl.data.array_files._read_rows", noted)
    np.testing.assert_array_equal(data.column("y"), Y)
    assert sorted(read) == [("/labels", 1), ("/labels", 40), ("/train/images", 1)]


def test_the_fingerprint_is_of_the_content(folder, monkeypatch):
    monkeypatch.setenv("JDL_CACHE", str(folder / "cache"))
    path = hdf5(folder)
    stream = {"stream": True, "x": "train/images"}
    first = jdl.data.hdf5(path, **stream).fingerprint
    os.utime(path, (1, 1))
    assert jdl.data.hdf5(path, **stream).fingerprint == first
    assert jdl.data.hdf5(path, stream=True, z="train/images").fingerprint != first
    with h5py.File(path, "a") as file:
        file["train/images"][39, 2] += 1
    assert jdl.data.hdf5(path, **stream).fingerprint != first
    monkeypatch.setattr("hashlib.file_digest", None)
    assert len(file_sha256(path)) == 64  # kept in the cache


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": "gone"}, "has .*labels.* at the top, but no gone"),
        ({"x": "train"}, "x in .* holds no numbers, but a group"),
        ({"x": "names"}, "x in .* holds no numbers, but .S1"),
        ({"x": "one"}, "x in .* is one number"),
        ({"x": "train/images", "y": "short"}, "same number of rows.*40.*3"),
        ({}, "No column can have the name labels|holds no numbers"),
    ],
)
def test_what_hdf5_files_lack_is_said(folder, columns, message):
    with pytest.raises(jdl.Error, match=message):
        jdl.data.hdf5(hdf5(folder), **columns)


def test_a_nan_of_a_stream_is_found_where_it_is_read(folder):
    path = hdf5(folder)
    with h5py.File(path, "a") as file:
        file["train/images"][21, 1] = np.nan
    data = jdl.data.hdf5(path, stream=True, x="train/images")
    data.take(np.arange(20))
    with pytest.raises(jdl.Error, match=r"among the rows \[20, 21\].*NaN"):
        data.take(np.array([20, 21]))


def of_header(folder, shape, content=b""):
    """An archive of one array whose header claims a shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + content)


def test_hostile_npz_files_end_in_a_message(folder, monkeypatch):
    path = folder / "a.npz"

    def refused(message, **columns):
        with pytest.raises(jdl.Error, match=f"cannot be read as an npz file.*{message}"):
            jdl.data.npz(path, **columns)

    of_header(folder, (1 << 40,))
    refused("claims 8796093022208 bytes, which it does not have")
    of_header(folder, (1 << 62, 1 << 62))
    refused("does not have")
    of_header(folder, (), bytes(8))
    refused("one row per input")
    npz(folder, x=np.array([{"a": 1}], dtype=object))
    refused("arrays of numbers")
    npz(folder, x=np.array(["text"]))
    refused("arrays of numbers")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", pickle.dumps([1]))
    refused("")
    whole = npz(folder).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("")
    path.write_bytes(b"")
    refused("")
    npz(folder, images=X)
    monkeypatch.setattr("os.sysconf", lambda name: 20)
    refused("its arrays need 0 GiB of memory")
    with pytest.raises(jdl.Error, match="contains images, but needs an array z"):
        jdl.data.npz(path, x="z")


@pytest.mark.parametrize("stream", [False, True])
def test_a_damaged_hdf5_file_ends_in_a_message(folder, stream):
    path = hdf5(folder, chunks=(7, 3), compression="gzip", fletcher32=True)
    whole, columns = path.read_bytes(), {"x": "train/images"}
    for content in (b"", b"text", whole[:-2000], whole[:600]):
        path.write_bytes(content)
        with pytest.raises(jdl.Error, match="cannot be read"):
            jdl.data.hdf5(path, stream=stream, **columns).take(np.arange(40))
    with h5py.File(folder / "b.h5", "w") as file:
        array = file.create_dataset("x", data=X, chunks=(40, 3), fletcher32=True)
        place = array.id.get_chunk_info(0).byte_offset
    damaged = bytearray((folder / "b.h5").read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(jdl.Error, match="cannot be read: it is damaged"):
        jdl.data.hdf5(path, stream=stream, x="x").take(np.arange(40))


def test_a_source_opens_its_file_when_it_is_read(folder):
    with pytest.raises(jdl.Error, match=r"gone\.h5 cannot be read as an HDF5 file"):
        len(HDF5Rows(folder / "gone.h5", {}, ()))
