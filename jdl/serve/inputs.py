"""The rows of a request as the columns that a program takes: types, shapes and lengths checked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jdl.export.model import rescale_images
from jdl.export.table import check_codes, encode
from jdl.serve.limits import Limits, RequestError
from jdl.serve.models import Columns, ServedModel, ServedProgram

Take = Callable[[int], None]  # takes bytes of the server's memory, or refuses
FORMS = '{"rows": [...]}, {"columns": {...}} or {"texts": [...]}'
ROW_LENGTH = "length"  # the input that says how much of a row is real


def parse_json(body: bytes) -> Any:
    """The document of a body; `RequestError` 400 where it is no JSON, or has NaN or Infinity."""
    try:
        return json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise RequestError(400, "The JSON is nested too deeply.") from None
    except ValueError as error:  # also of bytes that are no UTF-8, and of endless integers
        raise RequestError(400, f"The body is no JSON: {str(error)[:200]}.") from None


def _no_constant(name: str) -> None:
    raise RequestError(422, f"Numbers must be finite: {name} is none.")


def columns_of(
    document: Any, model: ServedModel, program: ServedProgram, limits: Limits, take: Take
) -> Columns:
    """The columns of a JSON document: of rows, of columns by name, or of texts."""
    if not isinstance(document, dict) or len(document) != 1:
        raise RequestError(422, f"The body must be one of {FORMS}.")
    ((form, values),) = document.items()
    table = model.manifest.get("table")
    if form == "rows" and table and program.name == "predict":
        return _from_table(values, table, program, limits, take)
    if form == "rows":
        return _from_rows(values, program, limits, take)
    if form == "columns":
        if not isinstance(values, dict):
            raise RequestError(422, "columns must be an object of lists by the inputs' names.")
        return check_columns(values, program, limits, take)
    if form == "texts":
        return from_texts(values, model, program, limits, take)
    raise RequestError(422, f"The body must be one of {FORMS}, and not {form[:100]!r}.")


def _from_table(
    rows: Any, table: Mapping[str, Any], program: ServedProgram, limits: Limits, take: Take
) -> Columns:
    """The columns of rows by the names of the table's columns, encoded as in training."""
    if not isinstance(rows, list) or not rows:
        raise RequestError(422, "rows must be a list of one row or more.")
    _check_count(len(rows), limits)
    try:
        encoded = encode(rows, table)
    except ValueError as error:
        raise RequestError(422, str(error)) from None
    needed = {name: column for name, column in encoded.items() if name in program.inputs}
    return check_columns(needed, program, limits, take)


def is_shape(sizes: Sequence[Any]) -> bool:
    """Whether an array can have these sizes; one of 0 does not make the others right."""
    return (
        len(sizes) <= 16
        and all(type(size) is int and size >= 0 for size in sizes)
        and math.prod(max(size, 1) for size in sizes) < 1 << 40
    )


def main_input(program: ServedProgram) -> str:
    """The input that a row is where it is not named: x, or the first one."""
    return "x" if "x" in program.inputs else next(iter(program.inputs))


def _from_rows(rows: Any, program: ServedProgram, limits: Limits, take: Take) -> Columns:
    """The columns of a list of rows, each an object of the inputs or the main input alone."""
    if not isinstance(rows, list) or not rows:
        raise RequestError(422, "rows must be a list of one row or more.")
    _check_count(len(rows), limits)
    if not isinstance(rows[0], dict):
        return check_columns({main_input(program): rows}, program, limits, take)
    names = rows[0].keys()
    for n, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != names:
            raise RequestError(422, f"Row {n} has other names than row 0: {listed(names)}.")
    return check_columns(
        {name: [row[name] for row in rows] for name in names}, program, limits, take
    )


def from_texts(
    texts: Any, model: ServedModel, program: ServedProgram, limits: Limits, take: Take
) -> Columns:
    """The tokens of texts with special ones around them, and their lengths."""
    about = model.manifest["tokenizer"]
    if model.tokenizer is None or not program.inputs.keys() <= {"x", ROW_LENGTH}:
        raise RequestError(422, f"{model.name} takes no texts, but {listed(program.inputs)}.")
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise RequestError(422, "texts must be a list of one text or more.")
    _check_count(len(texts), limits)
    for n, text in enumerate(texts):
        if len(text) > limits.max_text:
            raise RequestError(
                422, f"Text {n} has {len(text):,} characters, and at most {limits.max_text:,} fit."
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            message = f"Text {n} is no Unicode: it has half a surrogate pair."
            raise RequestError(422, message) from None
    before, after = about["special"]
    tokens = [[*before, *model.tokenizer.encode(text).tolist(), *after] for text in texts]
    return check_columns({"x": tokens}, program, limits, take, fill=about["eos_id"])


def check_columns(
    columns: Mapping[str, Any], program: ServedProgram, limits: Limits, take: Take, fill: int = 0
) -> Columns:
    """Columns (N, ...) of the types and shapes that a program takes.

    Rows of different times are padded by `fill` where the program takes their `length`, which need
    not be given; `take` is asked for the bytes. Raises `RequestError` 422 where a name, a type or a
    shape is wrong.
    """
    wanted = program.inputs
    given = dict(columns)
    main = main_input(program)
    if unknown := given.keys() - wanted.keys():
        raise RequestError(
            422, f"There is no input {min(unknown)[:100]!r}; there are {listed(wanted)}."
        )
    ragged = ROW_LENGTH in wanted and len(wanted[main]["shape"]) > 1
    if ragged and ROW_LENGTH not in given and main in given:
        given[ROW_LENGTH] = _lengths(given[main], main)
    if missing := wanted.keys() - given.keys():
        raise RequestError(422, f"The input {min(missing)} is missing.")
    if ragged and isinstance(given[main], list):
        _check_count(len(given[main]), limits)
        given[main] = _padded(given[main], program, take, fill)
    found = {name: _column(name, given[name], about) for name, about in wanted.items()}
    _check_shapes(found, program, limits)
    if sizes := wanted.get("codes", {}).get("sizes"):
        try:
            check_codes(found["codes"], sizes)
        except ValueError as error:
            raise RequestError(422, str(error)) from None
    return found


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.max_rows:
        raise RequestError(
            422, f"A request has at most {limits.max_rows:,} rows, and this one {count:,}."
        )


def _lengths(rows: Any, name: str) -> list[int] | np.ndarray:
    """The length of each row: all of its time."""
    if isinstance(rows, np.ndarray) and rows.ndim > 1:
        return np.full(len(rows), rows.shape[1])
    if isinstance(rows, list) and all(isinstance(row, list) for row in rows):
        return [len(row) for row in rows]
    raise RequestError(422, f"{name} must have a list for each row.")


def _padded(rows: list[Any], program: ServedProgram, take: Take, fill: int) -> Any:
    """Rows of one time: that of the longest, or that of the program where it is fixed."""
    name = main_input(program)
    about = program.inputs[name]
    _, fixed, *features = about["shape"]
    lengths = _lengths(rows, name)
    longest = max(lengths, default=0)
    most = fixed if isinstance(fixed, int) else program.max_time
    if most is not None and longest > most:
        raise RequestError(
            422, f"A row of {name} has the time {longest:,}, and at most {most} fit."
        )
    width = fixed if isinstance(fixed, int) else longest
    if set(lengths) == {width}:
        return rows
    dtype = np.dtype(about["dtype"])
    take(len(rows) * width * math.prod(features) * dtype.itemsize)
    found = np.full((len(rows), width, *features), fill, dtype)
    for n, row in enumerate(rows):
        if not row:
            continue
        values = from_lists(name, row, dtype)
        if values.shape[1:] != tuple(features):
            raise _misshapen(name, values[None], about["shape"])
        found[n, : len(row)] = values
    return found


def padded_size(body: int, program: ServedProgram, limits: Limits) -> int:
    """The most bytes that a body of so many may be padded to, or ask to be drawn."""
    if program.name == "generate":
        return limits.max_rows * math.prod(program.inputs["z"]["shape"][1:]) * 4
    about = program.inputs[main_input(program)]
    if ROW_LENGTH not in program.inputs or len(about["shape"]) < 2:
        return 0
    _, width, *features = about["shape"]
    width = width if isinstance(width, int) else min(program.max_time or body, body)
    rows = min(limits.max_rows, body // 2)
    return rows * width * math.prod(features) * np.dtype(about["dtype"]).itemsize


def _column(name: str, values: Any, about: Mapping[str, Any]) -> np.ndarray:
    """An array of the input's type; `RequestError` where one of its values is another's."""
    dtype = np.dtype(about["dtype"])
    array = values if isinstance(values, np.ndarray) else from_lists(name, values, dtype)
    return convert(name, array, dtype)


def from_lists(name: str, values: Any, dtype: np.dtype) -> np.ndarray:
    """An array of nested lists of numbers, or of booleans for an input of such."""
    try:
        objects = np.array(values, dtype=object)  # never of texts, each as wide as the longest
    except ValueError:
        raise RequestError(422, f"{name} is nested too deeply or ragged.") from None
    kinds = set(map(type, objects.ravel().tolist()))
    allowed = {bool} if dtype.kind == "b" else {int, float} if dtype.kind == "f" else {int}
    if wrong := kinds - allowed:
        raise RequestError(422, f"{name} must hold {dtype} in rows of one shape: {_why(wrong)}.")
    try:
        with np.errstate(over="ignore"):
            return objects.astype(dtype)
    except OverflowError:
        raise RequestError(422, f"{name} has a number that is no {dtype}.") from None


def _why(wrong: set[type]) -> str:
    names = {
        list: "its lists are ragged",
        dict: "it has an object",
        str: "it has a text",
        type(None): "it has null",
        bool: "it has true or false",
        float: "it has a fraction",
        int: "it has a number",
    }
    return min(names.get(kind, kind.__name__) for kind in wrong)


def convert(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """An array as another type, where that loses nothing but precision.

    Bytes of images become numbers from 0 to 1 where the program takes such, as in training.
    """
    if array.dtype.kind == "b":
        array = array.view(np.uint8) != 0  # bytes from elsewhere may be other than 0 and 1
    kinds = {"f": "fiub", "i": "iu", "u": "iu", "b": "b"}
    if array.dtype.kind not in kinds.get(dtype.kind, ""):
        raise RequestError(422, f"{name} must be {dtype}, not {array.dtype}.")
    array = rescale_images(array, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        found = array.astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(found).all():
        raise RequestError(422, f"{name} must be finite: it has a NaN or is too large.")
    if dtype.kind in "iu" and array.dtype != dtype and not np.array_equal(found, array):
        raise RequestError(422, f"{name} has a number that is no {dtype}.")
    return found


def _check_shapes(columns: Columns, program: ServedProgram, limits: Limits) -> None:
    """Raises where a shape is not the program's, or rows or times differ between inputs."""
    sizes: dict[str, int] = {}
    for name, column in columns.items():
        shape = program.inputs[name]["shape"]
        if column.ndim != len(shape):
            raise _misshapen(name, column, shape)
        for size, expected in zip(column.shape, shape, strict=True):
            if size != (
                expected if isinstance(expected, int) else sizes.setdefault(expected, size)
            ):
                raise _misshapen(name, column, shape)
    rows = next(iter(sizes.values()), 0)
    if not rows:
        raise RequestError(422, "There is no row.")
    _check_count(rows, limits)
    most = program.max_time
    for name in program.timed:
        time = columns[name].shape[1]
        if not 1 <= time <= (most or time):
            raise RequestError(422, f"The time of {name} must be from 1 to {most}, not {time:,}.")
    _check_lengths(columns, main_input(program))


def _check_lengths(columns: Columns, main: str) -> None:
    """Raises where a length is longer than its row."""
    length = columns.get(ROW_LENGTH)
    if length is None or columns[main].ndim < 2 or length.ndim != 1:
        return
    time = columns[main].shape[1]
    if length.min() < 0 or length.max() > time:
        raise RequestError(422, f"length must be from 0 to the time of {main}, {time}.")


def _misshapen(name: str, column: np.ndarray, shape: Sequence[int | str]) -> RequestError:
    expected, found = ", ".join(map(str, shape)), ", ".join(map(str, column.shape))
    return RequestError(
        422, f"{name} must be of shape ({expected}), b the number of rows, not ({found})."
    )


def listed(names: Any) -> str:
    """Names for a message, no more and no longer than can be read."""
    return ", ".join(str(name)[:100] for name in list(names)[:20])
