"""Batch inference: predictions for files of any size, in constant memory, resumed after a kill.

The answers to each piece of the inputs are a file of their own in a folder beside the output, and
a second file, written last, says that it is complete. At the end they become one file. So each row
is answered once, wherever the process is killed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jdl.config import difference
from jdl.inspect.pieces import ROWS, WHOLE_FILES, Piece, all_files, import_pyarrow, pieces
from jdl.inspect.predict import to_csv
from jdl.store.folder import read_json, write_atomically, write_json
from jdl.store.lock import hold_lock, is_locked
from jdl.types import Error

Row = dict[str, Any]
Answer = Callable[[Sequence[Path]], list[Row]]  # the predictions for the rows of small files
ENDINGS = (".parquet", ".csv", ".jsonl")
FEWER = 16  # where a piece has a bad row, it is sought in pieces of a 16th of its size
PLAN, PLANNED = "plan.json", {"model", "inputs", "bad rows"}  # what parts are of
SHOWN = 10  # bad rows that are named
NAMES = ("before", "now")


@dataclass(frozen=True)
class Answers:
    """What a batch inference has written: the number of rows, and of bad ones, with the first."""

    rows: int = 0
    bad: int = 0
    first_bad: tuple[str, ...] = ()

    def with_part(self, rows: int, bad: Sequence[str]) -> Answers:
        """The sum of this and of a part."""
        shown = (*self.first_bad, *bad)[:SHOWN]
        return Answers(self.rows + rows, self.bad + len(bad), shown)


@dataclass(frozen=True)
class _Parts:
    """The answers by piece, in a folder: a file of rows, and what says that it is complete."""

    folder: Path
    ending: str

    def rows(self, n: int) -> Path:
        return self.folder / f"{n:08}{self.ending}"

    def mark(self, n: int) -> Path:
        return self.folder / f"{n:08}.json"

    def complete(self) -> Iterator[Path]:
        """The files of rows of the first pieces, in their order."""
        n = 0
        while self.mark(n).exists():
            if self.rows(n).exists():
                yield self.rows(n)
            n += 1


def predict_files(
    answer: Answer,
    inputs: Sequence[Path],
    out: Path,
    model: str,
    skip_bad: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
    rows: int = ROWS,
    whole: bool = False,
) -> Answers:
    """Batch inference: writes the answers to files of any size to a .parquet, .csv or .jsonl file.

    Also called batch prediction. After a kill the same call goes on where it was, if the inputs and
    the `model`, a name or a digest, are the same. A row that cannot be read, or whose answer is not
    finite, is an `Error` that names it; with `skip_bad` such rows are left out, and listed in a
    file beside `out`. `out` and what is beside it may be in a folder of the inputs. `progress` is
    called with the number of rows that are answered; `rows` of a file, at most, are in memory at a
    time, unless files are read `whole`, as rows belong together. Raises `Error` where `out` exists.
    """
    check_output(out)
    parts, listed = _Parts(_parts_folder(out), out.suffix), out.with_name(f"{out.name}.bad.txt")
    own = (out, listed, parts.folder)
    scratch, bad = parts.folder / "scratch", parts.folder / "bad.txt"
    try:
        parts.folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(parts.folder, "written"):
            if out.exists():  # by now: another process has written it
                shutil.rmtree(parts.folder)
                raise _exists(out)
            name = f"{model}, {rows} rows a part"
            _check_plan(parts.folder, all_files(inputs, own), name, skip_bad)
            scratch.mkdir(exist_ok=True)
            bad.unlink(missing_ok=True)
            found, files = Answers(), 1 if whole else WHOLE_FILES
            for n, piece in enumerate(pieces(inputs, scratch, rows, files, whole, own)):
                if not parts.mark(n).exists():
                    _write_part(parts, n, *_answered(answer, piece, scratch, skip_bad))
                part = read_json(parts.mark(n))
                found = found.with_part(part["rows"], part["bad"])
                with bad.open("a", encoding="utf-8") as file:
                    file.writelines(f"{text}\n" for text in part["bad"])
                progress(found.rows)
            if not found.rows:
                raise Error(f"No row was answered. {' '.join(found.first_bad[:1])}".strip())
            _join(parts, parts.folder / "all")
            listed.unlink(missing_ok=True)
            if found.bad:
                bad.rename(listed)
            (parts.folder / "all").rename(out)
            shutil.rmtree(parts.folder)
    except OSError as error:
        raise Error(f"{out} cannot be written: {error}.") from error
    return found


def check_output(out: Path) -> None:
    """Raises `Error` where answers cannot be written to this file.

    Parts that a kill left behind complete answers are deleted; a folder of that name that jdl has
    not made is an `Error`.
    """
    if out.suffix not in ENDINGS:
        raise Error(f"{out} must end in {', '.join(ENDINGS)}.")
    parts = _parts_folder(out)
    is_own = _is_own(parts)
    if out.exists():
        if is_own and not is_locked(parts):
            shutil.rmtree(parts, ignore_errors=True)
        raise _exists(out)
    if not is_own:
        raise Error(f"{parts}, for parts of {out.name}, is not of jdl: choose another file.")
    if out.suffix == ".parquet":
        import_pyarrow()


def _exists(out: Path) -> Error:
    return Error(f"{out} exists already: choose another file, or delete it.")


def _parts_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _is_own(folder: Path) -> bool:
    """Whether a folder has a plan of jdl, or nothing yet but its lock; or there is none."""
    if not folder.is_dir():
        return not folder.exists()
    if (folder / PLAN).exists():
        plan = read_json(folder / PLAN)
        return isinstance(plan, dict) and plan.keys() == PLANNED
    return all(
        path.name == "lock" or path.name.startswith(f".{PLAN}.") for path in folder.iterdir()
    )


def _check_plan(folder: Path, inputs: Iterator[Path], model: str, skip_bad: bool) -> None:
    """Raises `Error` where parts that are there are of other inputs, or of another model."""
    files, count = hashlib.sha256(), 0
    for path in inputs:
        count += 1
        status = path.stat()
        files.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    plan = {
        "model": model,
        "inputs": f"{count:,} files, {files.hexdigest()[:12]} by names, sizes and times",
        "bad rows": "left out" if skip_bad else "refused",
    }
    path = folder / PLAN
    if path.exists() and (changed := difference(read_json(path), plan, NAMES)):
        raise Error(
            f"{folder} has parts of other answers ({changed}): delete the folder to begin anew, or "
            "choose another file."
        )
    write_json(path, plan)


def _answered(
    answer: Answer, piece: Piece, scratch: Path, skip_bad: bool, size: int = 0
) -> tuple[list[Row], list[str]]:
    """The answers to the rows of a piece, and why others have none.

    Where an answer fails, the rows at fault are found in smaller and smaller pieces.
    """
    size = size or (ROWS if piece.origin else WHOLE_FILES)
    try:
        found = [{**row, "input": piece.renamed(str(row["input"]))} for row in answer(piece.files)]
        check_finite(found)
        return found, []
    except Error as error:
        if size == 1 or (piece.origin is None and len(piece.files) == 1):
            text = piece.renamed(str(error))
            text = text if piece.names_row(text) else f"{piece.first_name}: {text}"
            if not skip_bad:
                raise Error(
                    f"{text} With --skip-bad such rows are left out, and listed."
                ) from error
            return [], [text]
    size = max(1, size // FEWER)
    folder = scratch / f"of{size}"
    folder.mkdir(exist_ok=True)
    rows, bad = list[Row](), list[str]()
    for smaller in pieces(piece.files, folder, size, size):
        found, why = _answered(answer, replace(smaller, parent=piece), scratch, skip_bad, size)
        rows += found
        bad += why
    return rows, bad


def check_finite(rows: Sequence[Row]) -> None:
    """Raises `Error` where a number of an answer is NaN or infinite."""
    for row in rows:
        for name, value in row.items():
            numbers = np.ravel(value) if isinstance(value, list) else np.asarray([value])
            if numbers.dtype.kind == "f" and not (numbers < np.inf).all():  # NaN too
                raise Error(f"{row['input']}: {name} of the answer is not a finite number.")


def _write_part(parts: _Parts, n: int, rows: list[Row], bad: list[str]) -> None:
    """Writes the answers to a piece, and then that they are complete."""
    if rows:
        write_atomically(parts.rows(n), _encoded(rows, parts.ending))
    write_json(parts.mark(n), {"rows": len(rows), "bad": bad})


def _encoded(rows: list[Row], ending: str) -> bytes:
    if ending == ".csv":
        return to_csv(rows).encode()
    if ending == ".jsonl":
        return "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    pyarrow, parquet = import_pyarrow()
    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), content)
    return content.getvalue()


def _join(parts: _Parts, to: Path) -> None:
    """Writes the rows of all parts to one file, part by part."""
    if parts.ending == ".parquet":
        _join_parquet(list(parts.complete()), to)
        return
    header = b""
    with to.open("wb") as file:
        for path in parts.complete():
            with path.open("rb") as part:
                first = part.readline() if parts.ending == ".csv" else b""
                if header and first != header:
                    raise Error(f"The answers have other columns in {path}: write .jsonl instead.")
                file.write(b"" if header else first)
                header = first
                shutil.copyfileobj(part, file)
        file.flush()
        os.fsync(file.fileno())


def _join_parquet(paths: Sequence[Path], to: Path) -> None:
    """One row group a part; a column that is whole numbers here and others there has the others."""
    pyarrow, parquet = import_pyarrow()
    schemas = [parquet.read_schema(path) for path in paths]
    schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
    with parquet.ParquetWriter(to, schema) as writer:
        for path in paths:
            tables = [schema.empty_table(), parquet.read_table(path)]
            writer.write_table(pyarrow.concat_tables(tables, promote_options="permissive"))
    with to.open("rb") as file:
        os.fsync(file.fileno())
