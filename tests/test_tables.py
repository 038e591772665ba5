"""Tables: equal to scikit-learn and pandas, fitted to training rows alone, the same from any file.

Seen to fail: statistics or categories of all rows instead of the training rows; unknown and missing
categories with one code; codes by order of appearance; missing values coded 1 where training had
none, or one group; a target divided by 0; a str taken letter by letter.
"""

import gzip
import importlib
import lzma
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from small_tables import ROWS, assert_equal, people, taken

import jdl
from jdl.data.fetch import fetch
from jdl.inspect.predict import predict
from jdl.inspect.restore import TrainedRun
from jdl.models.mlp import MLP
from jdl.models.tabular import TabularMLP
from jdl.store.checkpoints import state_digest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JDL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
