"""Batch inference: every kind of file in pieces, killed anywhere, bad rows, folders of the user's.

Seen to fail: lines counted by records, the number of a line without that of the header, a part that
counts before its rows are written, parts that are answered again, NaN that is not looked for;
quotes by parity, lines that end with \\n alone, UTF-16 in pieces, parts among the inputs, parts
that are a folder of the user's, an output that appeared meanwhile, an old list of bad rows.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from unittest.mock import patch

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

import jdl
import jdl.cli
from jdl.data.text_files import read_lines
from jdl.export.model import _table_rows
from jdl.inspect import batch
from jdl.inspect.batch import predict_files
from jdl.inspect.pieces import pieces

COUNT = 11


def write(folder, kind):
    """A file of 11 rows, with their names and values."""
    path, numbers = folder / f"rows{kind}", list(range(COUNT))
    names = [f"{path}[{n}]" for n in numbers]
    if kind in (".csv", ".tsv"):
        comma = "," if kind == ".csv" else "\t"
        lines = [f'"a\nb{n}"{comma}{n}\n' for n in numbers]
        path.write_text(f"text{comma}x\n{''.join(lines)}")
        names = [f"{path}:{2 * n + 3}" for n in numbers]  # the last line of a row
    elif kind == ".jsonl":
        path.write_text("".join(f'{{"x": {n}}}\n\n' for n in numbers))
        names = [f"{path}:{2 * n + 1}" for n in numbers]
    elif kind == ".txt":
        path.write_text("\n" * 5 + "\n".join(map(str, numbers)))
        names = [f"{path}:{n + 6}" for n in numbers]
    elif kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"x": numbers}), path, row_group_size=4)
    elif kind == ".npy":
        np.save(path, numbers)
    elif kind == ".npz":
        np.savez(path, x=numbers, y=np.zeros((COUNT, 2)))
    else:
        path.mkdir()
        for n in numbers:
            Image.new("L", (2, 2), n).save(path / f"{n:02}.png")
        names = [f"{path / f'{n:02}.png'}" for n in numbers]
    return path, dict(zip(names, numbers, strict=True))


KINDS = (".csv", ".tsv", ".jsonl", ".txt", ".parquet", ".npy", ".npz", "")


def answer(files):
    """The x of each row, read as jdl reads such files."""
    rows = []
    for path in files:
        kind = path.suffix
        if kind in (".npy", ".npz"):
            found = np.load(path)
            x = found if kind == ".npy" else found["x"]
            rows += [{"input": f"{path}[{n}]", "x": int(v)} for n, v in enumerate(x)]
        elif kind == ".txt":
            places, lines = read_lines(path)
            rows += [{"input": p, "x": int(v)} for p, v in zip(places, lines, strict=True)]
        elif kind == ".png":
            rows.append({"input": str(path), "x": Image.open(path).getpixel((0, 0))})
        else:
            rows += [{"input": place, "x": int(row["x"])} for place, row in _table_rows(path)]
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_cut_and_each_row_has_its_name(tmp_path, kind):
    path, expected = write(tmp_path, kind)
    sizes = [len(answer(piece.files)) for piece in pieces([path], tmp_path, rows=4, files=4)]
    assert sum(sizes) == COUNT
    assert len(sizes) >= 3
    assert max(sizes) <= 4
    for rows in (4, 1):
        out = tmp_path / f"{rows}.jsonl"
        found = predict_files(answer, [path], out, "model", rows=rows)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert {line["input"]: line["x"] for line in lines} == expected
        assert len(lines) == found.rows == COUNT
        assert not (tmp_path / f"{rows}.jsonl.parts").exists()


def test_the_endings_have_the_same_answers(tmp_path):
    def answers(files):
        return [
            {**row, "p": [row["x"] / 4, 0.5], "n": row["x"] / 2 if row["x"] > 5 else 1}
            for row in answer(files)
        ]

    path, expected = write(tmp_path, ".npy")
    for ending in batch.ENDINGS:
        predict_files(answers, [path], tmp_path / f"out{ending}", "model", rows=4)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["x"] for row in rows] == list(expected.values())
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist() == rows
    with (tmp_path / "out.csv").open() as file:
        of_csv = list(csv.DictReader(file))
    assert [float(row["p_0"]) for row in of_csv] == [row["p"][0] for row in rows]
    with pytest.raises(jdl.Error, match="exists already"):
        predict_files(answers, [path], tmp_path / "out.csv", "model")
    with pytest.raises(jdl.Error, match=r"must end in \.parquet, \.csv, \.jsonl"):
        predict_files(answers, [path], tmp_path / "out.xls", "model")


class Killed(BaseException):
    """What no part of jdl catches."""


@pytest.mark.parametrize("ending", batch.ENDINGS)
def test_killed_at_any_write_and_resumed_gives_the_same_bytes(tmp_path, ending):
    path, _ = write(tmp_path, ".csv")
    whole = tmp_path / f"whole{ending}"
    predict_files(answer, [path], whole, "model", rows=4)
    names = ("write_atomically", "write_json", "_join", "_encoded")
    for kills in range(100):
        out, answered = tmp_path / f"out{kills}{ending}", []

        def counted(files, answered=answered):
            answered.append(files)
            return answer(files)

        with patch.multiple(batch, **killing(names, kills)):
            try:
                predict_files(counted, [path], out, "model", rows=4)
                break
            except Killed:
                assert not out.exists()
        predict_files(counted, [path], out, "model", rows=4)
        assert out.read_bytes() == whole.read_bytes()
        assert len(answered) <= 3 + 1  # what was complete is not answered again
        assert not out.with_name(f"{out.name}.parts").exists()
    assert kills == 11  # the plan; rows, their file and their mark of 3 pieces; the end


def killing(names, limit):
    """Functions of `batch` which together break off after so many calls."""
    calls = []

    def at(function):
        def call(*arguments):
            if len(calls) == limit:
                raise Killed
            calls.append(function)
            return function(*arguments)

        return call

    return {name: at(getattr(batch, name)) for name in names}


def test_parts_that_a_kill_left_behind_complete_answers_are_deleted(tmp_path):
    path, _ = write(tmp_path, ".npy")
    out = tmp_path / "out.jsonl"
    with patch("shutil.rmtree", side_effect=Killed), pytest.raises(Killed):
        predict_files(answer, [path], out, "model")
    assert out.with_name("out.jsonl.parts").exists()
    with pytest.raises(jdl.Error, match="exists already"):
        predict_files(answer, [path], out, "model")
    assert not out.with_name("out.jsonl.parts").exists()


def test_parts_of_other_inputs_or_another_model_are_not_continued(tmp_path):
    path, _ = write(tmp_path, ".npy")
    out = tmp_path / "out.jsonl"

    def fail(files):
        raise Killed

    with pytest.raises(Killed):
        predict_files(fail, [path], out, "model")
    with pytest.raises(jdl.Error, match=r"model: model, 4096 rows a part before, other"):
        predict_files(answer, [path], out, "other")
    np.save(path, np.arange(3))
    with pytest.raises(jdl.Error, match=r"inputs: 1 files, \w+ by names"):
        predict_files(answer, [path], out, "model")


def test_bad_rows_are_named_or_left_out_and_listed(tmp_path):
    def strict(files):
        rows = answer(files)
        for row in rows:
            if row["x"] == 3:
                raise jdl.Error("3 is no input.")  # without its place
        return [{**row, "p": [0.0, np.nan if row["x"] == 7 else 1.0]} for row in rows]

    path, expected = write(tmp_path, ".csv")
    names = list(expected)
    out = tmp_path / "out.jsonl"
    with pytest.raises(jdl.Error, match=r"rows\.csv:8: 3 is no input.*--skip-bad"):
        predict_files(strict, [path], out, "model", rows=64)
    with pytest.raises(jdl.Error, match="bad rows: refused before, left out now"):
        predict_files(strict, [path], out, "model", skip_bad=True, rows=64)
    again = tmp_path / "again.jsonl"
    found = predict_files(strict, [path], again, "model", skip_bad=True, rows=64)
    assert (found.rows, found.bad) == (COUNT - 2, 2)
    listed = (tmp_path / "again.jsonl.bad.txt").read_text().splitlines()
    assert listed == [
        f"{path}:8: 3 is no input.",
        f"{names[7]}: p of the answer is not a finite number.",
    ]
    lines = [json.loads(line)["x"] for line in again.read_text().splitlines()]
    assert lines == [n for n in range(COUNT) if n not in (3, 7)]


def test_files_whose_rows_belong_together_are_read_whole(tmp_path):
    path, expected = write(tmp_path, ".csv")
    sizes = []

    def counted(files):
        sizes.append(len(answer(files)))
        return answer(files)

    predict_files(counted, [path], tmp_path / "out.jsonl", "model", rows=4, whole=True)
    assert sizes == [COUNT]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {line["input"]: line["x"] for line in lines} == expected


def test_damaged_files_and_endless_quotes_are_errors(tmp_path):
    for name, content, said in (
        ("a.npy", b"no", "cannot be read"),
        ("a.npz", b"no", "cannot be read"),
        ("a.parquet", b"no", "cannot be read"),
        ("a.csv", b'x\n"' + b"1\n" * 40, "row of more than"),
    ):
        (tmp_path / name).write_bytes(content)
        with patch("jdl.inspect.pieces.BYTES", 64), pytest.raises(jdl.Error, match=said):
            predict_files(answer, [tmp_path / name], tmp_path / f"{name}.jsonl", "model")
    np.save(tmp_path / "number.npy", np.zeros(()))
    with pytest.raises(jdl.Error, match="needs rows"):
        predict_files(answer, [tmp_path / "number.npy"], tmp_path / "number.jsonl", "model")
    with pytest.raises(jdl.Error, match="There is no file"):
        predict_files(answer, [tmp_path / "none"], tmp_path / "none.jsonl", "model")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quotes_and_line_ends_are_those_of_the_csv_module(tmp_path, end):
    path = tmp_path / "rows.csv"
    lines = ["text,x", 'a 5" pipe,0', '"b', ' ""c""",1', "", "d,2", '"e, no end', "f,3", "g,4"]
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())
    out = tmp_path / "out.jsonl"

    def strict(files):
        try:
            return answer(files)
        except (TypeError, ValueError) as error:
            raise jdl.Error(str(error)) from error

    found = predict_files(strict, [path], out, "model", skip_bad=True, rows=64)
    assert [json.loads(line)["x"] for line in out.read_text().splitlines()] == [0, 1, 2, 3, 4]
    assert found.bad == 1
    assert [p.first for p in pieces([path], tmp_path, rows=2)][:2] == [f"{path}:2", f"{path}:5"]


def test_large_files_with_inches_and_semicolons_are_cut(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text;x\n" + "".join(f'5" pipe;{n}\n"a\n""";{n}\n' for n in range(99)))
    with patch("jdl.inspect.pieces.BYTES", 256):
        found = list(pieces([path], tmp_path, rows=1))
    assert len(found) == 198
    assert found[2].first == f"{path}:5"


def test_utf16_is_read_whole(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("x\n" + "\u0a0a\n" * 9, encoding="utf-16")
    assert [piece.files for piece in pieces([path], tmp_path, rows=1)] == [(path,)]


def test_the_output_may_be_in_a_folder_of_the_inputs(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    path, expected = write(folder, ".jsonl")
    out = folder / "out.jsonl"
    (folder / "out.jsonl.bad.txt").write_text("of an earlier call")
    answered = []

    def broken(files):
        answered.append(files)
        if len(answered) == 2:
            raise Killed
        return answer(files)

    with pytest.raises(Killed):
        predict_files(broken, [folder], out, "model", rows=4)
    predict_files(broken, [folder], out, "model", rows=4)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["input"]: row["x"] for row in rows} == expected
    assert len(rows) == COUNT
    assert len(answered) == 6 + 1
    assert {p.name for p in folder.iterdir()} == {path.name, out.name}  # and no old bad.txt


def test_a_folder_of_the_user_is_left_alone(tmp_path):
    path, _ = write(tmp_path, ".npy")
    out, folder = tmp_path / "out.jsonl", tmp_path / "out.jsonl.parts"
    folder.mkdir()
    for name, content in (("notes", "mine"), ("plan.json", "{}")):
        (folder / name).write_text(content)
        with pytest.raises(jdl.Error, match=r"out\.jsonl\.parts.*not of jdl"):
            predict_files(answer, [path], out, "model")
        out.write_text("mine")
        with pytest.raises(jdl.Error, match="exists already"):
            predict_files(answer, [path], out, "model")
        out.unlink()
        assert (folder / name).read_text() == content
        (folder / name).unlink()
    predict_files(answer, [path], out, "model")  # an empty one is taken
    assert not folder.exists()


def test_what_another_process_writes_meanwhile_is_not_written_over(tmp_path):
    path, _ = write(tmp_path, ".npy")
    out = tmp_path / "out.jsonl"
    meanwhile = patch("jdl.inspect.batch.check_output", lambda out: out.write_text("theirs"))
    with meanwhile, pytest.raises(jdl.Error, match="exists already"):
        predict_files(answer, [path], out, "model")
    assert out.read_text() == "theirs"
    assert not out.with_name("out.jsonl.parts").exists()
    out.unlink()

    def again(files):
        with pytest.raises(jdl.Error, match="is being written already"):
            predict_files(answer, [path], out, "model")
        return answer(files)

    assert predict_files(again, [path], out, "model").rows == COUNT


STORM = """
import sys, time
from pathlib import Path
from test_batch import answer
from jdl.inspect.batch import predict_files

def slowly(files):
    time.sleep(0.02)
    return answer(files)

predict_files(slowly, [Path(sys.argv[1])], Path(sys.argv[2]), "model", rows=8)
"""


@pytest.mark.nightly
def test_a_storm_of_kills_leaves_each_row_once(tmp_path):
    path, out = tmp_path / "rows.csv", tmp_path / "out.parquet"
    path.write_text("x\n" + "".join(f"{n}\n" for n in range(1_000)))
    command = [sys.executable, "-c", STORM, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, str(tmp_path / "whole.parquet")], env=environment, check=True)
    draw, kills = np.random.default_rng(0), 0
    while not out.exists():
        process = subprocess.Popen([*command, str(out)], env=environment)
        parts = out.with_name("out.parquet.parts")
        before = len(list(parts.glob("*.json"))) if parts.exists() else 0
        while process.poll() is None and len(list(parts.glob("*.json"))) < before + 20:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.05))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills > 4
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    found = pyarrow.parquet.read_table(out)
    assert found["x"].to_pylist() == list(range(1_000))
