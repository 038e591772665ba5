"""Files of tables: what is refused with its line and column, read as it is meant, and cached.

Seen to fail: a column's earlier rows kept where its kind changes; NUL, open quotes and ragged lines
not looked for; mistyped numbers taken for categories; line numbers that count rows; lines left out
of a prediction; thousands read as decimals; options checked before the file; a damaged archive
taken for a full disk.
"""

import bz2
import gzip
import warnings
from unittest.mock import patch

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from small_tables import csv_of, people

import jdl
from jdl.data import csv_file

ROW = "1,x\n"
MANY = "".join(f"name {n},{n}\n" for n in range(30))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (b"", {}, r"t\.csv is empty"),
        (b"\n \n", {}, r"t\.csv is empty"),
        ("a,b\n", {}, "names of columns, but no rows"),
        ("a,b\n1,x\n2,\0\n", {}, r"Line 3 of .*t\.csv has a NUL byte"),
        (b"a,b\n1,\xc3\xa9\n2,\xe9\n", {}, r"Line 3 of .*t\.csv is not utf-8.*0xe9.*cp1252"),
        ("a,b\n1,x", {"encoding": "latin-9000"}, "no encoding 'latin-9000'"),
        ("a,b\n1,x", {"encoding": "latin-9000", "target": "b"}, "no encoding 'latin-9000'"),
        ("a,b\n1,x", {"encoding": "hex"}, "no encoding 'hex'"),
        ("é,b\n1,x".encode("cp1252"), {"target": "b"}, r"Line 1 of .*t\.csv is not utf-8"),
        ("a,b\n1,x\n".encode("utf-16"), {"target": "b"}, "is not utf-8.*'utf-16'"),
        ("a,b\n1,x\n", {"delimiter": "||"}, r"delimiter is one .* not '\|\|'"),
        ("a,b\n1,x\n", {"delimiter": '"'}, "delimiter is one"),
        ("a,b\n1,x\n", {"decimal": ""}, "decimal is one character, .* not ''"),
        ("a,b,a\n1,x,2\n", {}, "two columns with the name 'a'"),
        (",b\n1,x\n", {}, r"column without a name, number 1.*drop=\(''"),
        (
            'a,b\r\n"1\r\n",x\r\n2,y,z\r\n',
            {},
            r"Line 4 of .*t\.csv has 3 fields instead of 2: '2,y",
        ),
        ('a,b\n1,"x\n2,y\n', {}, "a quote is opened in the row after line 1 and never closed"),
        (f"a,b\n1,{'x' * 8_000_000}\n", {}, "The row after line 1 of .* is too long"),
        ("x" * 2_000_000, {}, "first line of .* cannot be read"),
        (f"a,b\n{ROW * 30}z,x\n{ROW}", {}, r"numbers in 31 of 32 rows.*'z' in line 32 of"),
        (f"a,b\n\n{ROW}z,x\n", {"numeric": "a"}, r"'z' in line 4 of .*no number.*missing=\('z',"),
        ("a,b\n1,x\n2,x\n-inf,y\n", {}, "the value -inf in line 4 of .*infinite"),
        ("a,b\n1e39,x\n2,x\n", {}, r"line 2 of .*too large for float32"),
        (f"a,b\n{MANY}", {}, r"Column a has 30 different values in 30 rows.*drop=\('a',\)"),
        (f"a,b\n{MANY}", {"categorical": "a", "max_categories": 9}, "more than 9 different values"),
        ("a,b\n1,x\n2,y\n", {"target": "c"}, "has no column 'c'"),
        ("price,b\n1,x\n2,y\n", {"target": "prise"}, "Did you mean 'price'"),
        ("a,b\n1,x\n1,y\n", {"target": "a"}, "target a has the same value in all 2 rows"),
        ("a,b\n1,x\nNA,y\n", {"target": "a"}, "missing in 1 of 2 rows, first in line 3 of"),
        ("a,b\n1,x\n-1,y\n", {"weight": "a"}, "from 0 on in every row, which it is not in line 3"),
        ("a,b\n1,x\n2,y\n", {"weight": "b"}, "'x' in line 2 of .*no number"),
        ("a,b\n1,x\n2,y\n", {"target": ("a", "b")}, "target b has texts"),
        ("a,b\n1,x\n2,y\n", {"target": "a", "drop": ("a",)}, "is in drop, and named by another"),
        ("a,b\n1,x\n2,y\n", {"on_bad": "ignore"}, "on_bad is 'raise' or 'skip'"),
    ],
)
def test_refusals_name_file_line_and_column(tmp_path, text, options, message):
    with pytest.raises(jdl.Error, match=message):
        jdl.data.csv(csv_of(tmp_path / "t.csv", text), **options)


def test_refusals_of_places_types_and_parts(tmp_path):
    data = jdl.data
    csv_of(tmp_path / "train.csv", "a,b\n1,x\n2,y\n")
    csv_of(tmp_path / "other.csv", "a,c\n1,x\n2,y\n")
    csv_of(tmp_path / "a.parquet", "PAR1")
    empty = data.frame({"a": [None, None, 1.0], "b": [1, 2, 3]}, target="b")
    for call, message in (
        (lambda: data.csv(tmp_path), "is a folder: name the files"),
        (lambda: data.csv(), "at least one file"),
        (lambda: data.csv(tmp_path / "trian.csv"), r"no file .*Did you mean train\.csv"),
        (lambda: data.csv(tmp_path / "x" / "y.csv"), "There is no file"),
        (lambda: data.csv(tmp_path / "train.csv", tmp_path / "other.csv"), "'b', 'c' is in one"),
        (lambda: data.parquet(tmp_path / "a.parquet"), "cannot be read as Parquet"),
        (lambda: data.frame(polars.LazyFrame({"a": [1]})), "call .collect"),
        (lambda: data.frame({"a": [[1], [2]]}), "Column a holds list<.*drop="),
        (lambda: data.frame({"a": [1, "x"]}), "cannot be read"),
        (lambda: data.frame(pandas.DataFrame([[1, 2]], columns=["a", "a"])), "two columns"),
        (lambda: data.frame({"a": ["1", "z", "2"]}), "'z' in row 1. Correct it"),
        (lambda: empty.datasets(np.arange(2), np.arange(2, 3)), "a has no value in the training"),
        (lambda: data.frame({"a": [1, 2]}, standardize_target=True), "needs a target"),
        (lambda: data.frame({"a": [1, 2]}, target="a").split(1.0), "no columns besides target"),
    ):
        with pytest.raises(jdl.Error, match=message):
            call()


def test_lines_that_are_left_out_are_counted_and_listed(tmp_path):
    bad = "".join(f"{n},x,{n}\n" for n in range(12))
    path = csv_of(tmp_path / "t.csv", f"a,b\n1,x\n{bad}2,y\n")
    for _ in range(2):  # also from the cache
        with pytest.warns(UserWarning, match=r"12 lines of .* left out: line 3 has 3 fields") as w:
            table = jdl.data.csv(path, on_bad="skip")
        assert len(w) == 1
        assert str(w[0].message).count("instead of 2") == 10
        assert table.column("a").tolist() == [1, 2]
    train = table.datasets(np.arange(2))[0]
    with pytest.raises(jdl.Error, match=r"Line 3 of .*t\.csv has 3 fields"):
        train.encode(path)  # a prediction leaves no row out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jdl.data.csv(csv_of(tmp_path / "good.csv", "a,b\n1,x\n2,y\n"), on_bad="skip")


def test_a_damaged_compressed_file_is_named_and_a_full_disk_is_none(tmp_path, monkeypatch, cache):
    text = "a,b\n" + "".join(f"{n},{n % 3}\n" for n in range(30_000))
    for suffix, content in (
        ("gz", gzip.compress(text.encode())),
        ("bz2", bz2.compress(text.encode())),
        ("zst", pa.compress(text.encode(), "zstd", asbytes=True)),
    ):
        half = len(content) // 2
        for damaged in (content[:half] + b"?" * 99 + content[half + 99 :], content[:half], b"?"):
            path = tmp_path / f"t.csv.{suffix}"
            path.write_bytes(damaged)
            with pytest.raises(jdl.Error, match=rf"t\.csv\.{suffix} "):
                jdl.data.csv(path, target="b")
    monkeypatch.setattr("jdl.data.csv_file.CsvFile.check", lambda self: "as if read before")
    with (
        patch("jdl.data.column_store.in_memory", side_effect=AssertionError),
        pytest.raises(jdl.Error, match="zst cannot be read"),
    ):
        jdl.data.csv(path)


def test_long_fields_and_rows(tmp_path):
    """Longer than the limit of Python's csv, and than Arrow's block."""
    path = csv_of(tmp_path / "t.csv", f"a,b\n1,x\n2,y,z\n3,{'q' * 200_000}\n4,x,\n")
    with pytest.warns(UserWarning, match="2 lines of .* line 3 has 3 fields .* line 5 has 3"):
        assert len(jdl.data.csv(path, categorical="b", on_bad="skip")) == 2
    names = ",".join(f"c{n}" for n in range(20))
    for lengths, message in (
        ((45_000, 75_000), r"row in line 3 of .*u\.csv has 1,500,019 letters.*a quote"),
        ((5, 120_000), r"row after line 2 of .*u\.csv is too long: a quote .* more than 2,097,152"),
    ):
        rows = [",".join(["v" * length] * 20) for length in lengths]
        with pytest.raises(jdl.Error, match=message):
            jdl.data.csv(csv_of(tmp_path / "u.csv", "\n".join([names, *rows])))


def test_thousands_are_no_decimals(tmp_path):
    path = csv_of(tmp_path / "t.csv", "a;b\n1,5;2\n1.234;3\n2,5;4\n")
    with pytest.raises(jdl.Error, match=r"numbers in 3 of 3 rows.*'1\.234' in line 3 of"):
        jdl.data.csv(path, delimiter=";", decimal=",")
    table = jdl.data.csv(path, delimiter=";", decimal=",", missing="1.234")
    np.testing.assert_array_equal(table.column("a"), [1.5, np.nan, 2.5])


def test_times_with_a_zone_are_read_in_utc(tmp_path):
    """As pandas has them, beside dates and times without a zone."""
    texts = ["2020-01-01T10:00:00Z", "2020-01-01 10:00+02:00", "2020-06-01T10:00:00.5-0130"]
    texts += [" 2020-01-01T10Z ", " 2020-01-02", "2020-01-02 03:04:05", "NA"]
    path = csv_of(
        tmp_path / "t.csv", "\n".join(["d,n", *(f"{t},{n}" for n, t in enumerate(texts))])
    )
    times = pandas.to_datetime(pandas.Series(texts[:-1]).str.strip(), utc=True, format="ISO8601")
    days = (times - pandas.Timestamp(0, tz="UTC")) / pandas.Timedelta(days=1)
    column = jdl.data.csv(path).column("d")
    np.testing.assert_allclose(column, [*days, np.nan], rtol=1e-12)
    zoned = jdl.data.frame({"d": times.dt.tz_convert("Asia/Tokyo")})
    np.testing.assert_allclose(zoned.column("d"), days, rtol=1e-12)


def test_a_kind_that_changes_late(tmp_path, monkeypatch):
    """Small blocks: what was decoded before the change is decoded again."""
    lines = [f"{n % 7},2020-01-0{1 + n % 9},true,{n}" for n in range(300)]
    lines[250], lines[280] = "5,seldom,3,250", "six,often,true,280"
    text = "\n".join(["a,b,c,d", *lines])
    path = csv_of(tmp_path / "t.csv", text)
    options = {"categorical": ("a",)}
    whole = jdl.data.csv(path, **options)
    monkeypatch.setattr(csv_file, "BLOCK", 256)
    blocks = jdl.data.csv(csv_of(tmp_path / "u.csv", text + "\n"), **options)
    assert {c.name: c.kind for c in blocks.columns.values()} == {
        **dict.fromkeys("abc", "category"),
        "d": "number",
    }
    assert blocks.fingerprint == whole.fingerprint
    assert len(blocks) == 300


def test_the_cache(tmp_path, monkeypatch, cache):
    people().to_csv(tmp_path / "t.csv", index=False)
    first = jdl.data.csv(tmp_path / "t.csv")
    with monkeypatch.context() as patch:
        patch.setattr("jdl.data.table_files.decode", None)
        again = jdl.data.csv(tmp_path / "t.csv", target="y")
        with pytest.raises(TypeError):  # decoded otherwise
            jdl.data.csv(tmp_path / "t.csv", categorical=("children",))
    assert again.fingerprint == first.fingerprint
    damaged = next(cache.glob("tables/*/0.bin"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    assert jdl.data.csv(tmp_path / "t.csv").fingerprint == first.fingerprint
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "t.csv" / "no folder"))
    assert jdl.data.csv(tmp_path / "t.csv").fingerprint == first.fingerprint
