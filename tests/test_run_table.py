"""The table of runs: which fields it shows, how it sorts, what it leaves out.

Seen to fail: fields that differ between experiments only, the largest loss as the best, and a
pattern taken for a name.
"""

import pytest
from harness import write_run

import jdl
from jdl.inspect.run_table import run_table


@pytest.fixture
def root(tmp_path):
    write_run(tmp_path, "cnn", 0, 0.91, "d1", lr=0.1, optimizer={"name": "sgd", "beta": 0.9})
    write_run(tmp_path, "cnn", 0, 0.93, "d2", lr=0.01, optimizer={"name": "sgd", "beta": 0.5})
    write_run(tmp_path, "cnn", 1, 0.95, "d2", lr=0.01, optimizer={"name": "sgd", "beta": 0.5})
    write_run(tmp_path, "mlp", 0, 0.90, "d3", lr=0.5, width=64)
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


def test_runs_are_chosen_by_name_and_pattern(root):
    assert column(run_table(root, "cnn/d2")[0], "seed") == [0, 1]
    assert column(run_table(root, "*/seed0")[0], "digest") == ["d1", "d2", "d3"]
    assert run_table(root, "none") == ([], [])
    assert list(run_table(root, "mlp")[0][0])[-1] == "best"


def test_it_is_sorted_with_the_best_first_and_what_is_missing_last(root):
    assert column(run_table(root, sort="best")[0], "best") == [0.95, 0.93, 0.91, 0.9]
    assert column(run_table(root, sort="lr")[0], "lr") == [0.01, 0.01, 0.1, 0.5]
    assert column(run_table(root, sort="optimizer.beta")[0], "digest") == ["d2", "d2", "d1", "d3"]
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


def test_a_run_that_cannot_be_read_is_named(root):
    (root / "mlp" / "d3" / "seed0" / "run.json").write_text("{}")
    rows, (error,) = run_table(root)
    assert len(rows) == 3
    assert "is not the record of a run" in error
