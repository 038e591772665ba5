"""Predictions of an exported folder for files, as `jdl predict` has them for a run."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.padding import padded
from jdl.data.text_files import read_lines
from jdl.data.tokenizers import encode_texts
from jdl.export.folder import WEIGHTS, open_program
from jdl.export.manifest import NAME, STABLEHLO, read_manifest, read_tokenizer
from jdl.export.table import check_codes, encode, in_unit, names_of, read_csv
from jdl.inspect.inputs import Columns, check_names, read_inputs
from jdl.inspect.pieces import import_pyarrow
from jdl.inspect.predict import readable_row
from jdl.objectives.predict import map_rows
from jdl.types import Batch, Error, Tokenizer, Variables
from jdl.weights.files import read_file

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq")


def is_exported(folder: Path) -> bool:
    """Whether a folder is an exported model, and not a run's."""
    return (folder / NAME).is_file()


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """An exported folder's program "predict", with its weights on all devices of this machine."""

    folder: Path
    manifest: dict[str, Any]

    def predict(self, inputs: Sequence[Path], batch_size: int = 256) -> list[dict[str, Any]]:
        """The predictions for the rows of images, arrays, texts or tables, as of a run.

        Inputs are what the manifest names: rows as the run's data had them. Raises `Error` where a
        file cannot be read, or has another shape or type.
        """
        specs, tokenizer, table = self.specs, self.tokenizer, self.manifest.get("table")
        reader = _Reader(specs, tokenizer, table)
        if table:
            check_names(inputs, names_of(table))
        names, columns = read_inputs(inputs, specs, tokenizer, tuple(specs), reader)
        if "length" in specs and "length" not in columns:  # all of each row is real
            first = columns.get("x", next(iter(columns.values())))
            columns["length"] = np.full(len(names), first.shape[1])
        columns = {name: _converted(name, columns[name], spec) for name, spec in specs.items()}
        if sizes := self._program["inputs"].get("codes", {}).get("sizes"):
            with _as_error():
                check_codes(columns["codes"], sizes)
        batches = list(_batches(columns, len(names), batch_size))
        call, replicas = self._opened
        found = map_rows(call, {}, batches, replicas=replicas)
        found = in_unit(found, table) if table else found
        labels = tuple(self.manifest["labels"])
        return [
            {"input": name, **readable_row(found, row, labels, tokenizer)}
            for row, name in enumerate(names)
        ]

    @property
    def digest(self) -> str:
        """What tells its answers from those of other models: the state that was exported."""
        return f"exported {self.manifest['digests']['state']}"

    @cached_property
    def specs(self) -> dict[str, Any]:
        """The inputs of the program, a row of each; time is as long as it may be."""
        time = self._program["max_time"]
        return {
            name: jax.ShapeDtypeStruct(
                (1, *(time if isinstance(n, str) else n for n in about["shape"][1:])),
                jnp.dtype(about["dtype"]),
            )
            for name, about in self._program["inputs"].items()
        }

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """What makes tokens of texts, if the model reads texts."""
        return read_tokenizer(self.folder, self.manifest)

    @property
    def _program(self) -> dict[str, Any]:
        return self.manifest["programs"]["predict"]

    @cached_property
    def _opened(self) -> tuple[Callable[[Variables, Batch], Batch], list[Variables]]:
        """The program as a function of weights and a batch, and the weights on each device."""
        weights, names = read_file(self.folder / WEIGHTS), tuple(self.specs)
        program, used = open_program(self.folder, self._program, weights)

        def call(weights: Variables, batch: Batch) -> Batch:
            return program(weights, {name: batch[name] for name in names})

        return call, [jax.device_put(used, device) for device in jax.local_devices()]


def load_exported(folder: Path) -> ExportedModel:
    """An exported model, to predict with; `Error` where it only generates, or is damaged."""
    manifest = read_manifest(folder)
    if manifest["runtime"] != STABLEHLO:
        raise Error(
            f"{folder} is for ONNX Runtime: call its predict.py, or export the run to StableHLO."
        )
    if "predict" not in manifest["programs"]:
        raise Error(f"{folder} does not predict: it has {', '.join(manifest['programs'])}.")
    return ExportedModel(folder, manifest)


def _batches(columns: Columns, rows: int, most: int) -> Iterator[Batch]:
    """Batches of at most `most` rows, padded to a power of two: each size is compiled once."""
    for start in range(0, rows, most):
        count = min(most, rows - start)
        places = np.arange(1 << (count - 1).bit_length())
        taken = start + np.minimum(places, count - 1)
        batch: dict[str, Any] = {name: column[taken] for name, column in columns.items()}
        batch["mask"] = places < count
        yield batch


def rescale_images(column: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Bytes of images as numbers from 0 to 1 where a program takes such, as in training."""
    if column.dtype == np.uint8 and column.ndim > 3 and jnp.issubdtype(dtype, jnp.floating):
        return column * np.float32(1 / 255)
    return column


def _converted(name: str, column: np.ndarray, spec: jax.ShapeDtypeStruct) -> np.ndarray:
    """A column of the type that the program takes; bytes of images become floats from 0 to 1."""
    column = rescale_images(column, spec.dtype)
    if column.dtype.kind not in "biuf" or not np.can_cast(column.dtype, spec.dtype, "same_kind"):
        raise Error(f"The model reads {spec.dtype} as {name}, and these are {column.dtype}.")
    return column.astype(spec.dtype)


@dataclass(frozen=True, eq=False)
class _Reader:
    """What reads texts and tables as inputs of a program."""

    specs: Mapping[str, jax.ShapeDtypeStruct]
    tokenizer: Tokenizer | None
    table: Mapping[str, Any] | None

    def read_file(self, path: Path) -> tuple[list[str], Columns] | None:
        """The names of the rows of a file, and its columns; None for another kind of file."""
        if path.suffix == ".txt" and self.tokenizer and {"x", "length"} == self.specs.keys():
            places, lines = read_lines(path)
            most = self.specs["x"].shape[1]
            tokens, _ = encode_texts(self.tokenizer, [(line,) for line in lines], most)
            x, length = padded(tokens, most, fill=self.tokenizer.eos_id)
            return places, {"x": x, "length": length}
        if path.suffix.lower() not in TABLES:
            return None
        with _as_error():
            if self.table and path.suffix.lower() in (".csv", ".tsv"):
                found: list[tuple[str, dict[str, Any]]] = [*read_csv(path, self.table)]
            else:
                found = list(_table_rows(path))
        if not found:
            raise Error(f"{path} has no rows.")
        places, rows = [place for place, _ in found], [row for _, row in found]
        if self.table:
            with _as_error():
                return places, encode(rows, self.table, places)
        return places, {name: self._column(name, places, rows) for name in self.specs}

    def _column(
        self, name: str, places: Sequence[str], rows: Sequence[dict[str, Any]]
    ) -> np.ndarray:
        """An input from the column of its name; or, the only one, from all columns in order."""
        spec = self.specs[name]
        shape, found = spec.shape[1:], np.zeros((len(rows), *spec.shape[1:]), spec.dtype)
        for n, (place, row) in enumerate(zip(places, rows, strict=True)):
            if name not in row and (len(self.specs) > 1 or len(row) != math.prod(shape)):
                need = f"a column {name}"
                if len(self.specs) == 1:
                    need += f", or {math.prod(shape)} columns of numbers"
                raise Error(f"{place} needs {need}, and has {', '.join(map(str, row))[:200]}.")
            values = row[name] if name in row else list(row.values())
            try:
                numbers = np.asarray(values, np.float64)
            except (TypeError, ValueError) as error:
                raise Error(f"{place}: {name} is not made of numbers: {error}.") from error
            if not np.isfinite(numbers).all() or numbers.size != math.prod(shape):
                raise Error(f"{place}: {name} must be {math.prod(shape)} finite numbers.")
            found[n] = numbers.reshape(shape)
            if spec.dtype.kind != "f" and not (found[n] == numbers.reshape(shape)).all():
                raise Error(f"{place}: {name} must be whole numbers of {spec.dtype}.")
        return found


@contextmanager
def _as_error() -> Iterator[None]:
    """Raises the `ValueError` of `jdl.export.table` as `Error`."""
    try:
        yield
    except (ValueError, OSError, LookupError) as error:
        raise Error(str(error)) from error


def _table_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table, each with its place; `Error` where it cannot be read."""
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            _, parquet = import_pyarrow()
            for n, row in enumerate(parquet.read_table(path).to_pylist()):
                yield f"{path}[{n}]", row
            return
        with path.open(encoding="utf-8", newline="") as file:
            if suffix in (".csv", ".tsv"):
                reader = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
                for row in reader:
                    yield f"{path}:{reader.line_num}", row
                return
            for n, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise Error(f"{path}:{n} is no JSON object.")
                    yield f"{path}:{n}", row
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise Error(f"{path} cannot be read: {error}.") from error
