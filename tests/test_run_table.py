"""The table of runs: which fields it shows, how it sorts, what it leaves out.

Seen to fail: fields that differ between experiments only, the largest loss as the best, and a
pattern taken for a name, a condition on a field in which runs do not differ, numbers compared as
texts, a tag found inside another, and a tag that changed the record;
damaged annotations that hide all runs, conditions that are evaluated again after tags changed,
`--untag` that is not stripped, a field that is None and fits nothing, and a dash refused, in
`--where` and in `--sort`; runs of other data ranked without a word.
"""

import pytest
from harness import write_run

import jdl
from jdl.cli.runs import runs
from jdl.inspect.run_table import run_table
from jdl.store.annotations import Annotations, annotate, read_annotations


@pytest.fixture
def root(tmp_path):
    write_run(
        tmp_path, "cnn", 0, 0.91, "d1", lr=0.1, warmup=None, optimizer={"name": "sgd", "beta": 0.9}
    )
    write_run(tmp_path, "cnn", 0, 0.93, "d2", lr=0.01, optimizer={"name": "sgd", "beta": 0.5})
    write_run(tmp_path, "cnn", 1, 0.95, "d2", lr=0.01, optimizer={"name": "sgd", "beta": 0.5})
    write_run(tmp_path, "mlp", 0, 0.90, "d3", lr=0.5, width=64, save_every=2, warmup=5)
    return tmp_path


def column(rows, name):
    return [row[name] for row in rows]


def test_it_has_the_hyperparameters_in_which_runs_of_a_name_differ(root):
    rows, errors = run_table(root)
    assert not errors
    own = ["name", "digest", "seed", "step", "steps", "status", "metric", "best"]
    assert list(rows[0]) == [*own, "lr", "optimizer.beta"]
    assert column(rows, "lr") == [0.1, 0.01, 0.01, 0.5]
    assert column(rows, "optimizer.beta") == [0.9, 0.5, 0.5, None]
    assert column(rows, "best") == [0.91, 0.93, 0.95, 0.9]


def test_its_fields_can_be_chosen(root, capsys):
    rows, _ = run_table(root, columns=["width", "save-every"])
    assert [*rows[0]][-2:] == ["width", "save_every"]
    assert column(rows, "width") == [None, None, None, 64]
    runs(columns="width,lr", as_csv=True, root=root)
    assert capsys.readouterr().out.splitlines()[0].endswith(",best,width,lr")
    with pytest.raises(jdl.Error, match=r"--columns widht: no run has .* lr, name, .*width"):
        runs(columns="widht", root=root)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"test": "other"}, "evaluated on 2 different sets of test data"),
        ({"test": "d", "train": "e"}, "trained on 2 different sets of data, which may rank them"),
    ],
)
def test_runs_of_other_data_are_not_ranked_without_a_word(root, capsys, data, text):
    runs(sort="best", root=root)
    assert capsys.readouterr().err == ""
    write_run(root, "mine", 0, 0.99, record={"data": data})
    runs(root=root)
    assert capsys.readouterr().err == ""  # it is no ranking
    runs(sort="best", root=root)
    assert text in capsys.readouterr().err


def test_runs_are_chosen_by_name_and_pattern(root):
    assert column(run_table(root, "cnn/d2")[0], "seed") == [0, 1]
    assert column(run_table(root, "*/seed0")[0], "digest") == ["d1", "d2", "d3"]
    assert run_table(root, "none") == ([], [])
    assert list(run_table(root, "mlp")[0][0])[-1] == "best"


def test_it_is_sorted_with_the_best_first_and_what_is_missing_last(root):
    assert column(run_table(root, sort="best")[0], "best") == [0.95, 0.93, 0.91, 0.9]
    assert column(run_table(root, sort="lr")[0], "lr") == [0.01, 0.01, 0.1, 0.5]
    assert column(run_table(root, sort="optimizer.beta")[0], "digest") == ["d2", "d2", "d1", "d3"]
    write_run(root, "dashes", 0, 0.5, weight_decay=2)
    write_run(root, "dashes", 1, 0.5, weight_decay=1)
    assert column(run_table(root, "dashes", "weight-decay")[0], "seed") == [1, 0]  # as in flags
    write_run(root, "low", 0, 0.5, record={"best": "min loss"})
    write_run(root, "low", 1, 0.7, record={"best": "min loss"})
    assert column(run_table(root, "low", "best")[0], "seed") == [1, 0]
    with pytest.raises(jdl.Error, match="no column 'rate', but name, digest"):
        run_table(root, sort="rate")


def test_a_field_with_the_name_of_a_column_hides_no_column(root):
    for n, best in enumerate((7, 8)):
        write_run(root, "gan", n, 0.5, f"e{n}", best=best)
    rows, _ = run_table(root, "gan")
    assert column(rows, "best") == [0.5, 0.5]
    assert column(rows, "config.best") == [7, 8]


WHERE = [
    (["lr<0.2"], [0.91, 0.93, 0.95]),
    (["lr <= 0.1", "optimizer.beta=0.9"], [0.91]),
    (["lr>=1e-1"], [0.91, 0.9]),
    (["width=64"], [0.9]),
    (["width!=3"], [0.9]),
    (["optimizer.name = SGD", "seed=1"], [0.95]),
    (["best>0.92", "name=cnn", "status=finished"], [0.93, 0.95]),
    (["tags=new"], []),
    (["save-every<3"], [0.9]),
    (["save_every=none", "lr<1"], []),
    (["warmup=None"], [0.91]),
    (["warmup!=None"], [0.9]),
    (["warmup<9"], [0.9]),
]


@pytest.mark.parametrize(("where", "best"), WHERE, ids=str)
def test_it_shows_those_for_which_conditions_hold(root, where, best):
    assert column(run_table(root, where=where)[0], "best") == best


WRONG = [
    ("lr", "is written as 'lr<0.01'"),
    ("rate<1", "no run has a column or a field 'rate'"),
    ("lr<fast", "0.1 is compared with a number"),
    ("name<z", "'cnn' is no number, so compare it by = or !="),
    ("__import__('os')=1", "is written as"),
]


@pytest.mark.parametrize(("where", "message"), WRONG)
def test_a_wrong_condition_is_refused(root, where, message):
    with pytest.raises(jdl.Error, match=message):
        run_table(root, where=[where])


def test_tags_and_notes_are_beside_the_run_which_stays_as_it_is(root, capsys):
    folder = root / "cnn" / "d1" / "seed0"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    runs("cnn", where=("lr=0.01",), tag=("paper", "new"), root=root)
    runs(where=("lr=0.1",), tag=("newer",), note="diverged once", root=root)
    rows, _ = run_table(root, where=["tags=new"])
    assert (column(rows, "tags"), column(rows, "best")) == (["new, paper"] * 2, [0.93, 0.95])
    assert run_table(root, "cnn/d1")[0][0]["note"] == "diverged once"
    assert annotate(folder, ("b",), ("newer",)) == Annotations(("b",), "diverged once")
    assert annotate(folder, note="") == read_annotations(folder) == Annotations(("b",))
    assert {path: path.read_bytes() for path in before} == before
    assert "new, paper" in capsys.readouterr().out
    with pytest.raises(jdl.Error, match="Which runs"):
        runs(tag=("all",), root=root)
    with pytest.raises(jdl.Error, match="without commas"):
        annotate(folder, ("a,b",))
    with pytest.raises(jdl.Error, match="has no run"):
        annotate(root, ("a",))


DAMAGED = ["{", '{"tags": "abc", "note": ""}', '{"tags": [1], "note": ""}', "[]"]


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_annotations_are_named_beside_the_other_runs(root, text):
    (root / "mlp" / "d3" / "seed0" / "annotations.json").write_text(text)
    rows, (error,) = run_table(root)
    assert column(rows, "digest") == ["d1", "d2", "d2"]
    assert "annotations.json is damaged: delete it, and tag the run again" in error


def test_those_that_were_chosen_are_tagged_and_printed(root, capsys):
    runs("cnn/d1", tag=("todo",), root=root)
    capsys.readouterr()
    runs(where=("tags=todo",), tag=(" done ",), untag=(" todo ",), root=root)
    shown = capsys.readouterr()
    assert "tagged 1 run\n" in shown.err
    assert "d1" in shown.out
    assert run_table(root, "cnn/d1")[0][0]["tags"] == "done"
    with pytest.raises(jdl.Error, match="no such run, so none is tagged"):
        runs(where=("tags=todo",), tag=("done",), root=root)
    with pytest.raises(jdl.Error, match="A tag is a word"):
        runs("cnn", untag=("a,b",), root=root)


def test_a_run_that_cannot_be_read_is_named(root):
    (root / "mlp" / "d3" / "seed0" / "run.json").write_text("{}")
    rows, (error,) = run_table(root)
    assert len(rows) == 3
    assert "is not the record of a run" in error
