"""Tables: equal to scikit-learn and pandas, fitted to training rows alone, the same from any file.

Seen to fail: statistics or categories of all rows instead of the training rows; unknown and missing
categories with one code; codes by order of appearance; a column's earlier rows kept where its kind
changes; NUL, open quotes and ragged lines not looked for; mistyped numbers taken for categories;
line numbers that count rows; missing values coded 1 where training had none, or one group; lines
left out of a prediction; a target divided by 0; a str taken letter by letter; thousands read as
decimals; options checked before the file; a damaged archive taken for a full disk.
"""

import bz2
import gzip
import importlib
import lzma
import pickle
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import jdl
from jdl.data import csv_file
from jdl.data.fetch import fetch
from jdl.inspect.predict import predict
from jdl.inspect.restore import TrainedRun
from jdl.models.mlp import MLP
from jdl.models.tabular import TabularMLP
from jdl.store.checkpoints import state_digest

ROWS = 60


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def people():
    """A frame with every kind of column, missing values among them."""
    chance = np.random.default_rng(0)
    day = [datetime(2020, 1, 1) + timedelta(hours=int(n)) for n in chance.integers(0, 9_999, ROWS)]
    return pandas.DataFrame(
        {
            "age": np.where(chance.random(ROWS) < 0.2, np.nan, chance.normal(40, 10, ROWS)),
            "children": chance.integers(0, 5, ROWS),
            "city": chance.choice(["Köln", "São Paulo", 'a "quoted", one', None], ROWS),
            "member": chance.random(ROWS) < 0.5,
            "since": day,
            "weight": chance.random(ROWS),
            "y": chance.choice(["no", "yes"], ROWS),
        }
    )


def csv_of(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def taken(dataset):
    return dataset.take(np.arange(len(dataset)))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


decimals = st.integers(-(10**9), 10**9).map(lambda n: n / 1000)  # std is no 1e-38: x is float32
numbers = st.lists(st.none() | decimals, min_size=12, max_size=12)
categories = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=12, max_size=12)


@settings(max_examples=25, deadline=None)
@given(numbers, numbers, categories)
def test_equal_to_scikit_learn(first, second, third):
    """Imputation, indicators, standardization, one-hot columns, of rows that were not fitted."""
    columns = np.asarray([first, second], np.float64).T
    train, test = np.arange(8), np.arange(8, 12)
    if np.isnan(columns[train]).all(0).any():
        return
    frame = {"n": first, "m": second, "c": pa.array(third, pa.string())}
    table = jdl.data.frame(frame, one_hot=True, numeric=("n", "m"), categorical=("c",))
    ours = table.datasets(train, test)[1]
    imputer = SimpleImputer(strategy="median", add_indicator=True).fit(columns[train])
    scaler = StandardScaler().fit(imputer.transform(columns[train])[:, :2])
    filled = imputer.transform(columns[test])
    constant = np.ptp(imputer.transform(columns[train])[:, :2], axis=0) == 0
    scaled = (filled[:, :2] - scaler.mean_) / np.where(constant, 1, scaler.scale_)
    texts = np.asarray([[value or "\uffff"] for value in third], object)  # missing: the last
    hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(texts[train])
    theirs = np.concatenate([scaled, filled[:, 2:], hot.transform(texts[test])], axis=1)
    np.testing.assert_allclose(taken(ours)["x"], theirs, rtol=1e-5, atol=1e-6)
    assert len(ours.encoding.feature_names) == theirs.shape[1]


def test_codes_of_categories_that_are_unknown_or_missing():
    table = jdl.data.frame({"c": ["b", "a", None, "10", "9", "new", "b"], "n": range(7)})
    train, test = table.datasets(np.arange(5), np.arange(5, 7))
    (category,) = train.encoding.categories
    assert category.values == ("9", "10", "a", "b")  # numbers by size
    assert taken(train)["codes"][:, 0].tolist() == [5, 4, 1, 3, 2]
    assert taken(test)["codes"][:, 0].tolist() == [0, 5]
    assert train.encoding.sizes == (6,)
    assert train.bounds["codes"] == (0, 5)
    train, test = table.datasets(np.asarray([0, 1, 3, 4]), np.asarray([2]))
    assert taken(test)["codes"].tolist() == [[0]]  # missing in new rows alone: a code not trained
    assert train.encode({"c": [None, "a"], "n": [0, 0]})["codes"].tolist() == [[0], [4]]


def test_training_rows_are_the_same_whatever_the_others_hold():
    """To the bit; and what the training rows hold does change them."""
    frame = people()
    train, test = np.arange(0, 40), np.arange(40, ROWS)
    other = frame.copy()
    other.loc[40:, ["age", "children"]] = 1e6
    other.loc[40:, "city"] = "Atlantis"
    changed = frame.copy()
    changed.loc[5, "children"] += 100
    a, b, c = (jdl.data.frame(f, target="y").datasets(train, test) for f in (frame, other, changed))
    assert a[0].encoding == b[0].encoding
    assert_equal(taken(a[0]), taken(b[0]))
    assert a[0].encoding != c[0].encoding
    assert (taken(a[1])["x"] != taken(b[1])["x"]).any()
    assert set(taken(b[1])["codes"][:, 0].tolist()) == {0}


@pytest.mark.parametrize("column", ["age", "children", "city", "member", "since", "weight", "y"])
def test_the_fingerprint_has_every_cell(column):
    frame = people()
    changed = frame.copy()
    before = frame[column][frame[column].notna()].iloc[3]
    others = {"city": "Köln!", "y": "perhaps", "member": not before}
    changed.loc[frame[column].notna().idxmax(), column] = others.get(column, frame[column].max())
    if column == "member":
        changed["member"] = ~frame["member"]
    prints = {
        part.fingerprint
        for f in (frame, changed)
        for part in jdl.data.frame(f, target="y").split(0.7, 0.3)
    }
    assert len(prints) == 4
    renamed = frame.replace({"city": {"Köln": "Bonn"}})  # the codes stay
    assert jdl.data.frame(renamed).fingerprint != jdl.data.frame(frame).fingerprint


def test_the_same_from_any_source(tmp_path):
    """To the bit: CSV, compressed CSV, Parquet, pandas, Polars and Arrow."""
    frame = people()
    frame.to_csv(tmp_path / "ü 🎉.csv", index=False)
    frame.to_csv(tmp_path / "cp1252.csv", index=False, encoding="cp1252", sep=";", decimal=",")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "ü 🎉.csv").read_bytes()))
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=7)
    options = {"target": "y", "weight": "weight"}
    tables = [
        jdl.data.csv(tmp_path / "ü 🎉.csv", **options),
        jdl.data.csv(tmp_path / "a.csv.gz", **options),
        jdl.data.csv(
            tmp_path / "cp1252.csv", encoding="cp1252", delimiter=";", decimal=",", **options
        ),
        jdl.data.parquet(tmp_path / "a.parquet", **options),
        jdl.data.frame(frame, **options),
        jdl.data.frame(frame.astype({"city": "category"}), **options),
        jdl.data.frame(polars.from_pandas(frame), **options),
        jdl.data.frame(pa.Table.from_pandas(frame, preserve_index=False), **options),
    ]
    expected = tables[4].split(0.7, 0.3)[1]
    for table in tables:
        assert table.fingerprint == tables[4].fingerprint
        assert_equal(taken(table.split(0.7, 0.3)[1]), taken(expected))
    assert expected.labels == ("no", "yes")
    assert tables[0].columns["since"].kind == "date"
    assert tables[0].columns["member"].kind == "bool"
    np.testing.assert_array_equal(tables[0].column("age"), frame["age"])
    np.testing.assert_array_equal(tables[0].column("city"), frame["city"].fillna(""))
    assert taken(expected)["weight"].dtype == np.float32


def test_parts_folds_and_files(tmp_path):
    frame = people()
    table = jdl.data.frame(frame, target="y")
    folds = table.folds(4, seed=1)
    assert len(folds) == 4
    assert sorted(np.concatenate([valid.ids for _, valid in folds])) == list(range(ROWS))
    for train, valid in folds:
        assert not set(train.ids) & set(valid.ids)
        assert train.encoding.numbers[1].mean == pytest.approx(frame["children"][train.ids].mean())
        np.testing.assert_allclose(taken(train)["x"][:, :2].mean(0), 0, atol=1e-6)
    frame[:41].to_csv(tmp_path / "a.csv", index=False)
    frame[41:].to_csv(tmp_path / "b.csv", index=False)
    parts = jdl.data.csv(tmp_path / "a.csv", tmp_path / "b.csv", target="y").split_by_file()
    assert_equal(
        [taken(part) for part in parts],
        [taken(part) for part in table.datasets(np.arange(41), np.arange(41, ROWS))],
    )
    for split in (lambda: table.folds(1), lambda: table.split(0.7, 0.7)):
        with pytest.raises(jdl.Error):
            split()


def test_missing_values_are_no_class_and_no_group(tmp_path):
    people().to_csv(tmp_path / "t.csv", index=False)
    table = jdl.data.csv(tmp_path / "t.csv", target="y")
    for name in ("age", "city"):
        line = 2 + int(people()[name].isna().to_numpy().argmax())
        message = f"{name} is missing in line {line} of .*t.csv"
        for call in (
            lambda name=name: table.split(0.5, 0.5, group=name),
            lambda name=name: table.folds(2, stratify=name),
            lambda name=name: table.split_by_time(0.5, 0.5, column=name),
        ):
            with pytest.raises(jdl.Error, match=message):
                call()
    assert len(table.split(0.5, 0.5, stratify=table.column("city"))) == 2


def test_names_alone_and_misspelt_options():
    """A str is one name, not its letters."""
    columns = {"a": ["1", "?", "2"], "b": ["x", "y", "x"], "n": ["NA", "DE", ""], "y": [1, 2, 3]}
    table = jdl.data.frame(
        columns, target="y", categorical="a", drop="b", missing="?", default_missing=False
    )
    assert table.column("a").tolist() == ["1", "", "2"]
    assert table.column("n").tolist() == ["NA", "DE", ""]
    assert table.columns["n"].missing.tolist() == [False, False, True]
    assert "b" not in table.columns
    assert jdl.data.frame({"a": ["1", "2"]}, numeric="a").columns["a"].kind == "number"
    for call, message in (
        (lambda: jdl.data.frame(columns, targt="y"), "no option 'targt'. Did you mean 'target'"),
        (lambda: jdl.data.csv("a.csv", delimeter=";"), "Did you mean 'delimiter'"),
        (lambda: jdl.data.parquet("a.parquet", delimiter=";"), "parquet has no option 'delimiter'"),
        (lambda: jdl.data.frame(columns, drop=5), "drop takes a text or several, not 5"),
        (lambda: jdl.data.frame(columns, drop=["a", 5]), r"drop takes .*, not \['a', 5\]"),
    ):
        with pytest.raises(jdl.Error, match=message):
            call()


def test_targets_of_each_kind():
    frame = people()
    for target, dtype, labels in (
        ("y", np.int32, ("no", "yes")),
        ("children", np.int32, ()),
        ("weight", np.float32, ()),
        ("member", np.int32, ("false", "true")),
    ):
        (data,) = jdl.data.frame(frame, target=target).split(1.0)
        assert (taken(data)["y"].dtype, data.labels) == (dtype, labels)
    (data,) = jdl.data.frame(frame, target="children", categorical=["children"]).split(1.0)
    assert data.labels == ("0", "1", "2", "3", "4")
    np.testing.assert_array_equal(taken(data)["y"], frame["children"])
    standard = {"standardize_target": True}
    table = jdl.data.frame(frame, target=("children", "weight"), **standard)
    train, test = table.datasets(np.arange(40), np.arange(40, ROWS))
    y = taken(test)["y"] * train.encoding.target_std + train.encoding.target_mean
    np.testing.assert_allclose(y, frame[["children", "weight"]][40:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(taken(train)["y"].std(0), 1, rtol=1e-5)
    table = jdl.data.frame({"a": range(5), "y": [0.5, 0.5, 0.5, 2, 3]}, target="y", **standard)
    train, test = table.datasets(np.arange(3), np.arange(3, 5))
    assert not taken(train)["y"].any()  # constant in the training rows: std 1
    np.testing.assert_allclose(taken(test)["y"], [1.5, 2.5], rtol=1e-6)
    for target in ("y", "member"):
        with pytest.raises(jdl.Error, match=f"target {target} has .* must be numbers"):
            jdl.data.frame(frame, target=target, **standard)
    table = jdl.data.frame(frame, target="age", drop_missing_target=True)
    assert len(table) == frame["age"].notna().sum() < ROWS
    np.testing.assert_array_equal(taken(table.split(1.0)[0])["y"], np.float32(frame.age.dropna()))


ROW = "1,x\n"
MANY = "".join(f"name {n},{n}\n" for n in range(30))


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


def make_run(table, steps=6):
    train, test = table.split(0.7, 0.3)
    model = MLP(2, (8,), dropout=0.5)
    learner = jdl.descent(jdl.objectives.classify(model), optax.adam(1e-2))
    config = jdl.Config(name="people", steps=steps)
    return jdl.Run(config, learner, train.shuffled(8, 0), test=test.batches(8), labels=train.labels)


@pytest.mark.slow
def test_training_resumes_to_the_bit_and_predicts_from_files(tmp_path):
    people().to_csv(tmp_path / "t.csv", index=False)
    read = {"target": "y", "one_hot": True, "weight": "weight"}
    options = {"quiet": True, "save_every": 3}
    whole = jdl.fit(
        make_run(jdl.data.csv(tmp_path / "t.csv", **read)),
        jdl.Options(root=tmp_path / "a", **options),
    )
    with pytest.raises(Exception, match="3"):
        jdl.fit(
            make_run(jdl.data.frame(people(), **read)),
            jdl.Options(root=tmp_path / "b", until=3, **options),
        )
    resumed = make_run(jdl.data.csv(tmp_path / "t.csv", **read))
    result = jdl.fit(resumed, jdl.Options(root=tmp_path / "b", **options))
    assert result.steps == 3
    assert state_digest(result.state) == state_digest(whole.state)
    new = people().drop(columns=["y", "weight"])[::-1]
    new.to_csv(tmp_path / "new.csv", index=False)
    rows = predict(TrainedRun(resumed, whole.state), [tmp_path / "new.csv"])
    assert len(rows) == ROWS
    assert rows[0]["input"].endswith("new.csv:2")  # by its line
    assert rows[-1]["input"].endswith(f"new.csv:{ROWS + 1}")
    new.to_parquet(tmp_path / "new.PQ")
    named = predict(TrainedRun(resumed, whole.state), [tmp_path / "new.PQ"])
    assert named[3] == {**rows[3], "input": f"{tmp_path / 'new.PQ'}[3]"}
    assert {row["label"] for row in rows} <= {"no", "yes"}
    expected = taken(resumed.train.dataset)
    encoded = resumed.train.dataset.encode(new)
    np.testing.assert_array_equal(encoded["x"][::-1][expected["id"]], expected["x"])
    with pytest.raises(jdl.Error, match=r"no column 'age', which the model was trained with"):
        resumed.train.dataset.encode({"children": [1]})
    with pytest.raises(jdl.Error, match=r"Column age has 'old' in row 0, which is no number"):
        resumed.train.dataset.encode(new.astype({"age": object}).assign(age="old"))


def test_streamed_batches_are_the_same():
    train, _ = jdl.data.frame(people(), target="y").split(0.7, 0.3)
    for i in (0, 7):
        assert_equal(train.shuffled(8, 0)[i], train.streaming().shuffled(8, 0)[i])


@pytest.mark.slow
def test_the_tabular_model():
    x, codes = jnp.ones((4, 3)), jnp.asarray([[0, 1], [2, 2], [3, 0], [0, 0]])
    model = TabularMLP(2, sizes=(4, 120), hidden=(8,))
    variables = model.init(jax.random.key(0), x, codes)
    params = variables["params"]
    assert params["embed_0"]["embedding"].shape == (4, 2)
    assert params["embed_1"]["embedding"].shape == (120, 50)
    assert not params["embed_0"]["embedding"][0].any()
    assert params["embed_0"]["embedding"][1:].all()
    side = [params[f"embed_{n}"]["embedding"][codes[:, n]] for n in range(2)]
    expected = MLP(2, (8,)).apply({"params": params["MLP_0"]}, jnp.concatenate([x, *side], axis=1))
    np.testing.assert_array_equal(model.apply(variables, x, codes), expected)
    grads = jax.grad(lambda v: model.apply(v, x[:2], codes[:2]).sum())(variables)["params"]
    assert grads["embed_0"]["embedding"][2].any()
    assert not grads["embed_0"]["embedding"][3].any()


def test_titanic_is_read_where_it_lies(tmp_path, monkeypatch):
    """A made-up file in the published layout, whose pickle would run code if it were loaded."""
    rows = 1_309
    ages = np.where(np.arange(rows) % 5, np.arange(rows) / 10, np.nan)
    texts = [
        *(f"passenger {n}" for n in range(rows)),
        *("yes" if n % 3 else "no" for n in range(rows)),
        *("male" if n % 2 else "female" for n in range(rows)),
        *(("1st", "2nd", "3rd")[n % 3] for n in range(rows)),
    ]

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    def dump(filler):
        return pickle.dumps([Evil(), "x" * filler, bytearray(ages.tobytes()), 3, texts], protocol=5)

    content = dump(1 + 200 - dump(1).index(ages.tobytes()))
    assert content.index(ages.tobytes()) == 200
    (tmp_path / "TitanicSurvival.pkl.compress").write_bytes(lzma.compress(content, preset=0))
    module = importlib.import_module("jdl.data.titanic")  # jdl.data.titanic is the function
    monkeypatch.setattr(module, "dataset_folder", {"titanic": tmp_path}.__getitem__)
    table = jdl.data.titanic()
    np.testing.assert_array_equal(table.column("age"), ages)
    for name, start in (("survived", 1), ("sex", 2), ("class", 3)):
        assert table.column(name).tolist() == texts[start * rows : (start + 1) * rows]
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_real_titanic(monkeypatch):
    """By the network, once: counts that every book has."""
    fetch("titanic")
    table = jdl.data.titanic()
    survived, women = (table.column(name) for name in ("survived", "sex"))
    assert (survived == "yes").sum() == 500
    assert ((survived == "yes") & (women == "female")).sum() == 339
    assert np.isnan(table.column("age")).sum() == 263
