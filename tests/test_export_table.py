"""Exported models of tables: rows by name, encoded and answered as by their run.

Seen to fail: columns by position, a mean of the wrong column, a decimal comma left as it is, flags
of missing values before the numbers, answers in standard deviations, codes without a limit, NaN
that was answered, numbers without names that a run took as encoded ones, and a folder for ONNX
without the encoding.
"""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optax
import pytest
from test_export import output

import jdl
from jdl.export.card import model_card
from jdl.export.manifest import _sizes, _table
from jdl.export.model import load_exported
from jdl.export.onnx_tools import onnx_tools, tools_folder
from jdl.export.table import check_codes, encode, in_unit, read_csv
from jdl.inspect.batch import check_finite
from jdl.inspect.predict import predict
from jdl.models.tabular import TabularMLP
from jdl.serve import Limits
from jdl.serve.answers import final_outputs
from jdl.serve.inputs import columns_of
from jdl.serve.limits import RequestError
from jdl.serve.models import load_model
from jdl.serve.requests import Memory, Share
from jdl.serve.uploads import columns_of_file

HEADER = "area,rooms,sold,new,town,price,id"
ROWS = [
    f"{40 + 7 * n if n % 5 else ''},{n % 4},20{n % 9 + 10}-02-03{'T04:05:06+02:00' * (n % 3 == 0)},"
    f"{('true', 'False')[n % 2]},{('Oslo', ' Rome', 'NA')[n % 3]},{1000 * n + 0.5},{n}"
    for n in range(16)
]
NEW = [
    "sold,town,new,rooms,area",  # in another order, and without the target
    "2020-01-02,Atlantis,true,3,100.25",
    "NA,,NA,,",
    "1969-12-31 23:00:00,Oslo,FALSE, 2 ,1e2",
    "2001-09-09T01:46:40Z,Rome,false,-1,+7.",
]
RECORD = {"area": 100.25, "rooms": 3, "sold": "2020-01-02", "new": True, "town": "Atlantis"}
OPTIONS = {"target": "price", "standardize_target": True, "drop": "id"}


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of a table, its folder, and the folder that it was exported to."""
    root = tmp_path_factory.mktemp("table")
    table = jdl.data.csv(write(root / "t.csv", [HEADER, *ROWS]), **OPTIONS)
    train, test = table.split(0.75, 0.25)
    model = jdl.adapt_model(TabularMLP(1, train.encoding.sizes, hidden=(4,)), inputs=("x", "codes"))
    learner = jdl.descent(jdl.objectives.regress(model), optax.adam(0.1))
    config = jdl.Config(name="houses", steps=2)
    run = jdl.Run(config, learner, train.shuffled(4, 0), test=test.batches(4))
    folder = jdl.fit(run, jdl.Options(root=root / "runs", quiet=True)).folder
    write(root / "new.csv", NEW)
    return run, folder, jdl.export.export(folder, root / "to", run=run)


@pytest.fixture(scope="module")
def model(exported):
    """The exported model, as a server has it."""
    return load_model(exported[2])


@pytest.mark.parametrize(
    "options",
    [{}, {"one_hot": True}, {"decimal": ",", "delimiter": ";"}, {"drop": ("id", "town")}],
    ids=str,
)
def test_rows_are_encoded_as_by_the_dataset_to_the_bit(tmp_path, options):
    comma = "decimal" in options
    lines, new = ([line.replace(",", ";") for line in part] for part in ([HEADER, *ROWS], NEW))
    if comma:
        lines, new = ([line.replace(".", ",") for line in part] for part in (lines, new))
    else:
        lines, new = [HEADER, *ROWS], NEW
    read = {**OPTIONS, **options}
    (train,) = jdl.data.csv(write(tmp_path / "t.csv", lines), **read).split(1.0)
    table = json.loads(json.dumps(_table(SimpleNamespace(test=train.batches(4)))))
    for path in (tmp_path / "t.csv", write(tmp_path / "new.csv", new)):
        expected = train.read_file(path)
        places, rows = zip(*read_csv(path, table), strict=True)
        found = encode(rows, table, places)
        assert list(places) == expected[0]
        assert {k: (v.dtype, v.tobytes()) for k, v in found.items()} == {
            k: (v.dtype, v.tobytes()) for k, v in expected[1].items()
        }
    assert np.unique(train.encode(tmp_path / "new.csv")["x"]).size > 8


def test_the_run_and_its_export_answer_alike_by_name_in_the_targets_unit(exported, model):
    run, folder, to = exported
    new = folder.parents[3] / "new.csv"
    trained = jdl.restore(folder, run)
    expected = predict(trained, [new])
    encoding = run.train.dataset.encoding
    raw = trained.objective.predict(trained.variables, run.train.dataset.encode(new))["value"]
    standard = np.asarray(raw, np.float64) * encoding.target_std + encoding.target_mean
    values = [row["value"] for row in expected]
    np.testing.assert_allclose(values, standard, rtol=1e-5)
    assert load_exported(to).predict([new]) == expected
    lines = output(to / "predict.py", new)
    assert [json.loads(line)["value"] for line in lines] == values
    _, function = runpy.run_path(str(to / "predict.py"))["load"](to)
    assert function([RECORD])["value"].shape == (1,)
    program = model.programs["predict"]
    columns = columns_of({"rows": [RECORD] * 4}, model, program, Limits(), take)
    served = final_outputs(model, {k: np.asarray(v) for k, v in program(columns).items()})
    assert served["value"][0].tolist() == values[0]


@pytest.mark.slow
def test_onnx_answers_rows_by_name_in_the_targets_unit(exported, tmp_path, monkeypatch):
    """In numbers and codes of categories; by ONNX Runtime, whose script has the encoding too."""
    try:
        onnx_tools("jax2onnx")
    except jdl.Error as error:
        pytest.skip(str(error))
    run, folder, _ = exported
    new, trained = folder.parents[3] / "new.csv", jdl.restore(folder, run)
    to = jdl.export.export(folder, tmp_path / "to", run=run, format="onnx")
    assert jdl.export.verify(to) == []
    expected = [row["value"] for row in predict(trained, [new])]
    monkeypatch.setenv("PYTHONPATH", str(tools_folder()))
    lines = output(to / "predict.py", new)
    np.testing.assert_allclose([json.loads(line)["value"] for line in lines], expected, rtol=1e-4)


def take(size):
    Share(Memory(1 << 20)).take(size)


REFUSED = (
    ([], "has no column 'area': the model reads area, rooms, sold, new, town"),
    ({"arae": 1, "area": None}, "a column 'arae', which the table of the training did not have"),
    ({"area": "old"}, "column area has 'old', and must be a number"),
    ({"area": True}, "column area has 'True', and must be a number"),
    ({"area": "1_0"}, "must be a number"),
    ({"area": 1e39}, "must be a number"),
    ({"area": 10**400}, "must be a number"),
    ({"area": [1]}, "must be a number"),
    ({"new": 1}, "column new has '1', and must be true or false"),
    ({"sold": "yesterday"}, "column sold has 'yesterday', and must be a date"),
    ({"sold": 3}, "must be a date"),
    ({"town": {}}, "column town has '{}', and must be a category"),
)


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=range(len(REFUSED)))
def test_rows_that_cannot_be_encoded_are_refused_with_their_names(model, change, message):
    row = {**RECORD, **change} if change else {}
    with pytest.raises(RequestError, match=f"Row 1.*{message}") as found:
        columns_of({"rows": [RECORD, row]}, model, model.programs["predict"], Limits(), take)
    assert found.value.status == 422
    with pytest.raises(ValueError, match=message):
        encode([row], model.manifest["table"])
    assert encode([{**RECORD, "price": 1, "id": 7}], model.manifest["table"])["x"].shape == (1, 5)


def test_arrays_without_names_and_codes_without_embeddings_are_refused(exported, model, tmp_path):
    program, x = model.programs["predict"], np.zeros((1, 5), np.float32)
    assert program.inputs["codes"]["sizes"] == list(exported[0].train.dataset.encoding.sizes)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, codes=[[7]])
    script = runpy.run_path(str(exported[2] / "predict.py"))
    served = load_exported(exported[2])
    for name, message in (("x.npy", "rows? of a table|no names"), ("x.npz", "from 0 to 3")):
        manifest, function = script["load"](exported[2])
        with pytest.raises(ValueError, match=message):
            function(script["read"](tmp_path / name, manifest))
        with pytest.raises(jdl.Error, match=message):
            served.predict([tmp_path / name])
    with pytest.raises(jdl.Error, match="no names, and the model reads area, rooms, sold"):
        predict(jdl.restore(exported[1], exported[0]), [tmp_path / "x.npy"])
    for rows in ([[100, 3]], [3]):
        with pytest.raises(RequestError, match="must have its values by name: area, rooms"):
            columns_of({"rows": rows}, model, program, Limits(), take)
    with pytest.raises(RequestError, match="An array has no names"):
        columns_of_file("application/x-npy", b"", model, program, Limits(), take)
    document = {"columns": {"x": x.tolist(), "codes": [[4]]}}
    with pytest.raises(RequestError, match="from 0 to 3"):
        columns_of(document, model, program, Limits(), take)
    check_codes(np.asarray([[3, 1]]), [4, 2])
    with pytest.raises(ValueError, match="from 0 to 3, 1"):
        check_codes(np.asarray([[1, 3]]), [4, 2])
    assert _sizes(None, "codes") == {}


def test_answers_that_are_not_finite_are_refused(model):
    for wrong in (np.nan, np.inf):
        outputs = {"label": np.zeros(2, int), "probability": np.asarray([[0.5], [wrong]])}
        with pytest.raises(RequestError, match="probability of the answer to row 1") as found:
            final_outputs(model, outputs)
        assert found.value.status == 422
        with pytest.raises(jdl.Error, match=r"a:2: p of the answer is not a finite number"):
            check_finite([{"input": "a:1", "p": [0.5]}, {"input": "a:2", "p": [wrong]}])


def test_values_and_quantiles_alone_are_in_the_unit_of_the_target():
    table = {"target": {"mean": [10.0], "std": [2.0]}}
    outputs = {name: np.ones(2, np.float32) for name in ("value", "q0.9", "code", "queue")}
    found = in_unit(outputs, table)
    assert {k: v.tolist()[0] for k, v in found.items()} == {
        "value": 12, "q0.9": 12, "code": 1, "queue": 1,
    }  # fmt: skip
    assert in_unit(outputs, {"target": {"mean": [], "std": []}}) == outputs


GIVEN = (
    ({"x": np.zeros(5), "codes": np.zeros((1, 1), int)}, r"x must be of shape \['b', 5\]"),
    ({"x": np.zeros((1, 4)), "codes": np.zeros((1, 1), int)}, r"not \[1, 4\]"),
    ({"X": np.zeros((1, 5))}, "reads codes, x by name, and is given X"),
    (np.zeros((1, 5)), "reads codes, x by name, and is given ndarray"),
    ({"x": [["a"] * 5], "codes": [[0]]}, "x must be float32, not <U1"),
    ({"x": np.zeros((1, 5)), "codes": np.zeros((1, 1))}, "codes must be int32, not float64"),
    ({"x": np.zeros((0, 5)), "codes": np.zeros((0, 1), int)}, "one row or more"),
    ({"x": np.zeros((2, 5)), "codes": np.zeros((1, 1), int)}, "equally many"),
)


def test_the_script_says_what_it_takes(exported, tmp_path):
    script = runpy.run_path(str(exported[2] / "predict.py"))
    manifest, function = script["load"](exported[2])
    for given, message in GIVEN:
        with pytest.raises(ValueError, match=message):
            function(given)
    with pytest.raises(ValueError, match=r"rows of a table, as \.csv"):
        script["read"](Path("a.xlsx"), manifest)
    with pytest.raises(ValueError, match=r"files are \.npz, \.npy or \.json"):
        script["read"](Path("a.csv"), {**manifest, "table": None})
    twice = write(tmp_path / "a.csv", ["a,a", "1,2"])
    with pytest.raises(ValueError, match="two columns 'a'"):
        script["read"](twice, manifest)
    with pytest.raises(ValueError, match=r"a\.csv:2 has 1 fields instead of 2"):
        script["read"](write(tmp_path / "a.csv", ["a,b", "1"]), manifest)


def test_the_card_names_columns_units_and_what_was_not_evaluated(exported):
    manifest = json.loads((exported[2] / "manifest.json").read_text())
    card = model_card(manifest)
    assert 'predict([{"area": ..., "rooms": ...' in card
    assert "area (number), rooms (number), sold (date), new (bool), town (category)" in card
    assert "predict.py answers in the unit of price" in card
    assert "has no metrics" not in card
    best = {**manifest, "results": {"valid": manifest["results"]["test"]}}
    assert "has no metrics of test: `jdl evaluate RUN`, with --best" in model_card(best)
