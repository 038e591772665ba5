"""Input files of any size cut into pieces: small files of the same kind, one after another."""

from __future__ import annotations

import codecs
import csv
import math
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from jdl.data.array_files import HEADERS, NPZ_ERRORS
from jdl.data.csv_file import next_row
from jdl.types import Error

ROWS, WHOLE_FILES = 4096, 256  # of a piece, at most: rows of a file, or files that are read whole
BYTES = 32 << 20  # of the rows of a piece: where they are large, it has fewer
DELIMITERS = ",;\t|"  # of .csv files: the one that is in the header most often


@dataclass(frozen=True)
class Piece:
    """Some of the inputs: whole files, or one file with some of the rows of `origin`.

    `first` is the name of its first row, and `before` by how much the number of a row, or of a
    line, is less than in `origin`; `parent` is the piece that this was cut from.
    """

    files: tuple[Path, ...]
    first: str
    origin: Path | None = None
    before: int = 0
    parent: Piece | None = None

    @property
    def first_name(self) -> str:
        """The name of its first row in the inputs."""
        return self.first if self.parent is None else self.parent.renamed(self.first)

    def names_row(self, text: str) -> bool:
        """Whether a text names a row of the inputs, or the file where it has one."""
        if self.parent is not None and self.parent.origin is not None:
            return self.parent.names_row(text)
        if self.origin is None:
            return str(self.files[0]) in text
        return re.search(rf"{re.escape(str(self.origin))}(:|\[)\d", text) is not None

    def renamed(self, text: str) -> str:
        """A text in which rows are called by their place in the inputs, and not in this piece."""

        def place(found: re.Match[str]) -> str:
            line, row = found[1], found[2]
            if line is not None:
                return f"{self.origin}:{int(line) + self.before}"
            return f"{self.origin}" if row is None else f"{self.origin}[{int(row) + self.before}]"

        if self.origin is not None:
            text = re.sub(rf"{re.escape(str(self.files[0]))}(?::(\d+)|\[(\d+)\])?", place, text)
        return text if self.parent is None else self.parent.renamed(text)


def all_files(paths: Sequence[Path], without: Collection[Path] = ()) -> Iterator[Path]:
    """The files, and those of folders, sorted by name; hidden ones and `without` are left out."""
    left_out = {path.resolve() for path in without}
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
            yield from all_files([p for p in inside if p.resolve() not in left_out], without)
        elif path.is_file():
            yield path
        else:
            raise Error(f"There is no file {path}.")


def pieces(
    paths: Sequence[Path],
    folder: Path,
    rows: int = ROWS,
    files: int = WHOLE_FILES,
    whole: bool = False,
    without: Collection[Path] = (),
) -> Iterator[Piece]:
    """Cuts inputs into pieces of at most so many rows, or files: the same ones each time.

    CSV and TSV, JSON lines, texts, Parquet, .npy and .npz files are cut, into a file of the same
    kind in `folder`, which the next piece replaces; others, UTF-16 and all if `whole`, are not.
    Memory does not depend on the sizes of those that are cut. What is in `without` is left out of
    folders. Raises `Error` where a file cannot be cut.
    """
    waiting: list[Path] = []
    for path in all_files(paths, without):
        cut = None if whole else CUT.get(path.suffix.lower())
        if cut is None or _is_utf16(path):
            cut = None
            waiting.append(path)
        if waiting and (cut or len(waiting) == files):
            yield Piece(tuple(waiting), str(waiting[0]))
            waiting = []
        if cut:
            try:
                yield from cut(path, folder / f"piece{path.suffix.lower()}", rows)
            except (*NPZ_ERRORS, OverflowError) as error:
                raise Error(f"{path} cannot be read: {error}.") from error
    if waiting:
        yield Piece(tuple(waiting), str(waiting[0]))


def _is_utf16(path: Path) -> bool:
    """Whether a text begins with UTF-16's mark: bytes of its letters are no line ends."""
    with path.open("rb") as file:
        return file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _cut_lines(path: Path, to: Path, rows: int) -> Iterator[Piece]:
    """Pieces of a file of lines; those that are blank do not count, but keep their numbers."""
    with _open(path) as file:
        lines = _Lines(file, path)
        yield from _pieces_of_lines((lines.take() for _ in lines), path, to, rows)


def _cut_csv(path: Path, to: Path, rows: int) -> Iterator[Piece]:
    """Pieces of a CSV file, each with its header, and with what is before that: blank lines."""
    with _open(path) as file:
        lines = _Lines(file, path)
        first = next((line for line in lines if line.strip()), "")
        blank = lines.take()[:-1]
        lines.waiting = [first] if first else []
        delimiter = max(DELIMITERS, key=first.count) if path.suffix.lower() == ".csv" else "\t"
        records = _records(lines, delimiter)
        header = [*blank, *next(records, [])]
        yield from _pieces_of_lines(records, path, to, rows, header)


def _open(path: Path) -> IO[str]:
    """A file as its lines, which end as Python's csv module has them: with \\n, \\r or both.

    Latin-1 has a letter for each byte, so that a text of any encoding but UTF-16 stays as it is.
    """
    return path.open(encoding="latin-1", newline="")


class _Lines:
    """The lines of a file, of which those since the last `take` can be given back."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self.file, self.path = file, path
        self.taken, self.waiting, self.size = list[str](), list[str](), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.waiting.pop() if self.waiting else self.file.readline(BYTES)
        if not line:
            raise StopIteration
        self.taken.append(line)
        self.size += len(line)
        if self.size >= BYTES:
            size = f"{BYTES >> 20} MiB"
            raise Error(f"{self.path} has a row of more than {size}: is a quote not closed?")
        return line

    def take(self, count: int | None = None) -> list[str]:
        """The lines since the last call; if only the first are taken, the others come again."""
        found, others = self.taken[:count], self.taken[len(self.taken[:count]) :]
        self.waiting += reversed(others)
        self.taken, self.size = [], 0
        return found


def _records(lines: _Lines, delimiter: str) -> Iterator[list[str]]:
    """The lines of each row of a CSV file.

    Where a quote opens a text that has no end, or makes a row of other columns than the first, only
    its line is a row: so a bad one takes no others with it.
    """
    width = 0
    while True:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            while (fields := next_row(reader, BYTES)) is not None:
                if len(lines.taken) > 1 and width and len(fields) != width:
                    break
                width = width or len(fields)
                yield lines.take()
            else:
                return
        except csv.Error:
            pass
        yield lines.take(1)


def _pieces_of_lines(
    records: Iterator[list[str]], path: Path, to: Path, rows: int, header: Sequence[str] = ()
) -> Iterator[Piece]:
    """Pieces of rows of lines, each with the header, if they are not all blank."""
    for before, lines in _grouped(records, rows):
        if (content := "".join(lines).encode("latin-1")).strip():
            to.write_bytes("".join(header).encode("latin-1") + content)
            yield Piece((to,), f"{path}:{before + 1 + len(header)}", path, before)


def _grouped(records: Iterator[list[str]], rows: int) -> Iterator[tuple[int, list[str]]]:
    """The lines of at most so many records and `BYTES` bytes, and the number of lines before."""
    group, count, size, before = list[str](), 0, 0, 0
    for record in records:
        group += record
        count += 1
        size += sum(map(len, record))
        if count == rows or size >= BYTES:
            yield before, group
            before += len(group)
            group, count, size = [], 0, 0
    if group:
        yield before, group


def _cut_npy(path: Path, to: Path, rows: int) -> Iterator[Piece]:
    with path.open("rb") as file:
        array = _Rows(file, path)
        for start, part in array.parts(rows):
            np.save(to, part)
            yield Piece((to,), f"{path}[{start}]", path, start)


def _cut_npz(path: Path, to: Path, rows: int) -> Iterator[Piece]:
    """Pieces of an .npz file, whose arrays are read side by side."""
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        arrays = {
            name.removesuffix(".npy"): _Rows(stack.enter_context(archive.open(name)), path)
            for name in archive.namelist()
        }
        if len({array.shape[:1] for array in arrays.values()}) != 1:
            yield Piece((path,), str(path))  # such an error, or number, is what reads it to say
            return
        count = min(array.fitting(rows) for array in arrays.values())
        columns = [array.parts(count) for array in arrays.values()]
        for found in zip(*columns, strict=True):
            np.savez(to, **{name: part for name, (_, part) in zip(arrays, found, strict=True)})
            yield Piece((to,), f"{path}[{found[0][0]}]", path, found[0][0])


class _Rows:
    """The rows of a file of NumPy's format, read one after another."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise Error(f"{path} is of version {version} of NumPy's format: save it again.")
        self.shape, by_columns, self.dtype = HEADERS[version](file)
        if self.dtype.hasobject or (by_columns and len(self.shape) > 1):
            raise Error(f"{path} has Python objects, or is in Fortran's order: save plain rows.")
        self.file, self.path = file, path

    def fitting(self, rows: int) -> int:
        """The number of rows of a part: at most `rows`, and at most `BYTES` bytes, if there are."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        return max(1, min(rows, BYTES // max(1, size)))

    def parts(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """The first row of each part, and its rows."""
        if not self.shape:
            raise Error(f"{self.path} is one number: it needs rows.")
        rows = self.fitting(rows)
        for start in range(0, self.shape[0], rows):
            shape = (min(rows, self.shape[0] - start), *self.shape[1:])
            content = self.file.read(math.prod(shape) * self.dtype.itemsize)
            yield start, np.frombuffer(content, self.dtype).reshape(shape)


def _cut_parquet(path: Path, to: Path, rows: int) -> Iterator[Piece]:
    pyarrow, parquet = import_pyarrow()
    start = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=rows):
            parquet.write_table(pyarrow.Table.from_batches([batch]), to)
            yield Piece((to,), f"{path}[{start}]", path, start)
            start += batch.num_rows


def import_pyarrow() -> tuple[Any, Any]:
    """pyarrow, and its module for Parquet; `Error` where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise Error("Parquet files need pyarrow: pip install 'jdl[tables]'.") from error
    return pyarrow, pyarrow.parquet


CUT: dict[str, Callable[[Path, Path, int], Iterator[Piece]]] = {
    **dict.fromkeys((".csv", ".tsv"), _cut_csv),
    **dict.fromkeys((".txt", ".jsonl", ".ndjson"), _cut_lines),
    **dict.fromkeys((".parquet", ".pq"), _cut_parquet),
    ".npy": _cut_npy,
    ".npz": _cut_npz,
}
