"""The columns of a table: their kinds, and their values decoded from Arrow batches, with checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from jdl.types import Error

Kind = Literal["number", "bool", "date", "category"]
"""What a column holds. A column is of the first of these kinds that all its values are of."""
KINDS: tuple[Kind, ...] = ("number", "bool", "date", "category")
DAY = 86_400_000_000  # in microseconds
FLOAT32_MAX = float(np.finfo(np.float32).max)
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "#N/A")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
ZONE = r"\d[T ]\d\d.*(Z|[+-]\d\d(:?\d\d)?)\s*$"  # the end of a time with a zone: Z, +02:00
FEW = 20  # so many different values are categories in a table of any length


@dataclass(frozen=True, eq=False)
class Column:
    """A column as it was read: numbers (N,) of float64, or codes (N,) of int32 for `values`.

    Numbers are NaN and codes -1 where the value is missing. Truth values are the numbers 0 and 1,
    dates the days since 1970.
    """

    name: str
    kind: Kind
    data: np.ndarray
    values: tuple[str, ...] = ()

    @property
    def missing(self) -> np.ndarray:
        """Which rows have no value, (N,)."""
        return self.data < 0 if self.kind == "category" else np.isnan(self.data)


class RowSource(Protocol):
    """A file or a data frame: named columns, read in Arrow record batches."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its columns."""

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """The rows, as record batches of these columns."""

    def place(self, row: int) -> str:
        """Where row 0, 1, ... is, for messages: "line 12 of passengers.csv"."""


class ColumnWriter(Protocol):
    """Where decoded columns go: into memory or onto the disk."""

    def append(self, name: str, data: np.ndarray) -> None:
        """Adds the next rows of a column."""

    def clear(self) -> None:
        """Forgets what was appended."""


@dataclass(frozen=True)
class Decoding:
    """How values are understood: columns whose kind is known, decimal point, missing values."""

    kinds: Mapping[str, Kind]
    missing: tuple[str, ...] = MISSING
    decimal: str = "."
    max_categories: int = 10_000
    drop: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None  # the columns to read; None: all but `drop`


@dataclass(frozen=True)
class DecodedTable:
    """The kinds and categories of decoded columns, and the number of rows of each source."""

    kinds: dict[str, Kind]
    values: dict[str, tuple[str, ...]]
    rows: tuple[int, ...]


def decode(sources: Sequence[RowSource], decoding: Decoding, writer: ColumnWriter) -> DecodedTable:
    """Decodes the columns of all sources, one after the other, into the writer.

    A column begins as the first of `KINDS`. Where a value is not of its kind, the column becomes
    of the next one, and the sources are read again from their beginning.
    """
    names = _common_names(sources, decoding)
    first_odd: dict[str, tuple[int, str]] = {}
    kinds: dict[str, Kind] = {name: decoding.kinds.get(name, KINDS[0]) for name in names}
    while True:
        pass_ = _Pass(sources, decoding, writer, kinds, first_odd)
        rows = pass_.read(names)
        if rows is not None:
            break
        writer.clear()
    if not sum(rows):
        raise Error(f"{sources[0].name} has names of columns, but no rows.")
    for name in names:
        if kinds[name] == "category":
            pass_.check_categories(name, sum(rows))
    values = {name: tuple(pass_.codes[name]) for name in names if kinds[name] == "category"}
    return DecodedTable(kinds, values, rows)


@dataclass
class _Pass:
    """One reading of all sources from their beginning."""

    sources: Sequence[RowSource]
    decoding: Decoding
    writer: ColumnWriter
    kinds: dict[str, Kind]
    first_odd: dict[str, tuple[int, str]]  # by column, its first value that is no number
    codes: dict[str, dict[str, int]] = field(default_factory=dict)  # by column and category
    written: dict[str, dict[str, int]] = field(default_factory=dict)  # by text before stripping
    counts: dict[str, np.ndarray] = field(default_factory=dict)  # of each category
    lengths: list[int] = field(default_factory=list)  # the rows of each source so far

    def read(self, names: Sequence[str]) -> tuple[int, ...] | None:
        """The number of rows of each source; None if the kind of a column has changed."""
        for source in self.sources:
            self.lengths.append(0)
            for batch in source.batches(names):
                fits = [self._append(name, batch.column(name)) for name in names]
                if not all(fits):
                    return None
                self.lengths[-1] += batch.num_rows
        return tuple(self.lengths)

    def _append(self, name: str, values: Any) -> bool:
        """Decodes the next rows of a column; false if rows before them are of another kind."""
        values, start = plain_values(name, values), sum(self.lengths)
        while (data := self._convert(name, values)) is None:
            kind = self.kinds[name]
            row, text = self._first_failure(name, values)
            self.first_odd.setdefault(name, (start + row, text))
            if name in self.decoding.kinds:
                raise Error(
                    f"Column {name} has {text!r} in {self._place(start + row)}, which is no "
                    f"{kind}: correct it, or take it for a missing value by missing=({text!r},)."
                )
            self.kinds[name] = KINDS[KINDS.index(kind) + 1]
            if start:
                return False
        self.writer.append(name, data)
        return True

    def _convert(self, name: str, values: Any) -> np.ndarray | None:
        """The values as the column's kind; None where they are not of this kind."""
        kind = self.kinds[name]
        if kind == "category":
            return self._to_codes(name, values)
        convert = CONVERSIONS[kind]
        if len(values) > FEW and convert(values[:FEW], self.decoding) is None:
            return None  # without a look at the rest
        data = convert(values, self.decoding)
        if data is not None and (wrong := ~(np.abs(data) <= FLOAT32_MAX) & ~np.isnan(data)).any():
            row = int(wrong.argmax())
            raise Error(
                f"Column {name} has the value {data[row]} in "
                f"{self._place(sum(self.lengths) + row)}, which is infinite or too large for "
                f"float32: correct it, leave the row out, or drop=({name!r},)."
            )
        return data

    def _to_codes(self, name: str, values: Any) -> np.ndarray:
        """Codes in the order in which the categories appear, -1 for missing values."""
        known, written = self.codes.setdefault(name, {}), self.written.setdefault(name, {})
        encoded = _strings(values).dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        for text in texts:
            if text not in written:
                value = text.strip()
                code = -1 if value in self.decoding.missing else known.setdefault(value, len(known))
                written[text] = code
        codes = [written[text] for text in texts]
        if len(known) > self.decoding.max_categories:
            raise Error(
                f"Column {name} has more than {self.decoding.max_categories:,} different values "
                f"in the first {sum(self.lengths) + len(values):,} rows{self._odd(name)}. Leave "
                f"it out by drop=({name!r},), or raise max_categories."
            )
        indices = encoded.indices.fill_null(len(codes)).to_numpy(zero_copy_only=False)
        data = np.asarray([*codes, -1], np.int32)[indices]
        counts = np.bincount(data + 1, minlength=len(known) + 1)
        counts[: len(self.counts.get(name, ()))] += self.counts.get(name, 0)
        self.counts[name] = counts
        return data

    def check_categories(self, name: str, rows: int) -> None:
        """Raises `Error` where categories are probably none: identifiers, or mistyped numbers."""
        if name in self.decoding.kinds:
            return
        counts, texts = self.counts[name][1:], list(self.codes[name])
        if FEW < len(texts) > counts.sum() / 2:
            raise Error(
                f"Column {name} has {len(texts):,} different values in {counts.sum():,} rows, as "
                f"names or identifiers have{self._odd(name)}. Leave it out by drop=({name!r},), "
                f"or keep it by categorical=({name!r},)."
            )
        plain = [text.replace(self.decoding.decimal, ".") for text in texts]
        numbers = np.asarray([bool(NUMBER.fullmatch(text)) for text in plain], bool)
        if counts[numbers].sum() >= counts.sum() / 2 and name in self.first_odd:
            raise Error(
                f"Column {name} has numbers in {counts[numbers].sum():,} of {rows:,} rows, but"
                f"{self._odd(name)[1:]}. Correct it, take it for a missing value by missing=("
                f"{self.first_odd[name][1]!r},), or take all values for categories by "
                f"categorical=({name!r},)."
            )

    def _odd(self, name: str) -> str:
        if name not in self.first_odd:
            return ""
        row, text = self.first_odd[name]
        return f"; the first that is no number is {text!r} in {self._place(row)}"

    def _first_failure(self, name: str, values: Any) -> tuple[int, str]:
        """The first value that is not of the column's kind: its row, found by halving."""
        convert = CONVERSIONS[self.kinds[name]]
        low, size = 0, 1  # the first `low` rows convert
        while convert(values[low : low + size], self.decoding) is not None:
            low, size = low + size, 2 * size
        while size > 1:  # one of the next `size` rows does not
            size //= 2
            if convert(values[low : low + size], self.decoding) is not None:
                low += size
        return low, str(values[low].as_py()).strip()

    def _place(self, row: int) -> str:
        return place_row(self.sources, self.lengths, row)


def place_row(sources: Sequence[RowSource], lengths: Sequence[int], row: int) -> str:
    """Where a row is, counted over sources of which all but the last have these lengths."""
    *before, (last, _) = zip(sources, lengths, strict=False)
    for source, length in before:
        if row < length:
            return source.place(row)
        row -= length
    return last.place(row)


def _common_names(sources: Sequence[RowSource], decoding: Decoding) -> list[str]:
    """The columns to read, which all sources must have."""
    first = sources[0]
    for source in sources:
        if twice := {name for name in source.names if source.names.count(name) > 1}:
            raise Error(
                f"{source.name} has two columns with the name {min(twice)!r}: rename one of them."
            )
        odd = set(first.names) ^ set(source.names)
        if decoding.only is None and (odd := odd - set(decoding.drop)):
            raise Error(
                f"{first.name} and {source.name} do not have the same columns: "
                f"{', '.join(map(repr, sorted(odd)))} is in one of them only."
            )
        if lacking := [name for name in decoding.only or () if name not in source.names]:
            raise Error(
                f"{source.name} has no column {lacking[0]!r}, which the model was trained with; it "
                f"has {', '.join(source.names)}."
            )
    names = decoding.only or [name for name in first.names if name not in decoding.drop]
    if "" in names:
        raise Error(
            f"{first.name} has a column without a name, number {first.names.index('') + 1}, as an "
            "index has that was saved with the table: leave it out by drop=('',)."
        )
    return list(names)


def plain_values(name: str, values: Any) -> Any:
    """Arrow values as numbers, timestamps or strings; `Error` for other types."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types, kind = pa.types, values.type
    if types.is_dictionary(kind):
        return plain_values(name, values.dictionary_decode())
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    if text or types.is_boolean(kind) or types.is_null(kind):
        return pc.cast(values, pa.string())
    if types.is_date(kind) or types.is_timestamp(kind):
        return pc.cast(values, pa.timestamp("us"), safe=False)
    if types.is_decimal(kind):
        return pc.cast(values, pa.float64())
    if not (types.is_integer(kind) or types.is_floating(kind)):
        raise Error(
            f"Column {name} holds {kind}, which is neither a number nor a text nor a date: convert "
            f"it, or leave it out by drop=({name!r},)."
        )
    return values


def _strings(values: Any) -> Any:
    """Values as strings: whole numbers without a decimal point."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(values.type):
        data = values.to_numpy(zero_copy_only=False)
        values = values if np.isnan(data).all() else pc.if_else(pc.is_nan(values), None, values)
    return pc.cast(values, pa.string())


def _is_text(values: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(values.type)


def _parse(values: Any, type_: Any, decoding: Decoding) -> Any:
    """The texts as values of an Arrow type; None where one of them is not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return pc.cast(values, type_)
    except pa.ArrowInvalid:
        texts = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
        lacking = pc.is_in(texts, value_set=pa.array(decoding.missing))
    try:
        return pc.cast(pc.if_else(lacking, pa.scalar(None, pa.string()), texts), type_)
    except pa.ArrowInvalid:
        return None


def _to_numbers(values: Any, decoding: Decoding) -> np.ndarray | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_timestamp(values.type):
        return None
    if not _is_text(values):
        return pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if decoding.decimal != ".":
        lacking = pc.is_in(pc.utf8_trim_whitespace(values), value_set=pa.array(decoding.missing))
        values = pc.if_else(lacking, pa.scalar(None, pa.string()), values)
        if pc.any(pc.match_substring(values, ".")).as_py():
            return None  # of thousands, probably
        values = pc.replace_substring(values, decoding.decimal, ".")
    numbers = _parse(values, pa.float64(), decoding)
    return None if numbers is None else numbers.to_numpy(zero_copy_only=False)


def _to_booleans(values: Any, decoding: Decoding) -> np.ndarray | None:
    if not _is_text(values):
        return None
    encoded = values.dictionary_encode()
    truth = {"true": 1.0, "false": 0.0, **dict.fromkeys(decoding.missing, np.nan)}
    texts = [text.strip() for text in encoded.dictionary.to_pylist()]
    numbers = [truth.get(text if text in truth else text.lower()) for text in texts]
    if None in numbers:
        return None
    indices = encoded.indices.fill_null(len(numbers)).to_numpy(zero_copy_only=False)
    return np.asarray([*numbers, np.nan], np.float64)[indices]


def _parse_times(values: Any, decoding: Decoding) -> Any:
    """The texts as times, those with a zone in UTC; None where one of them is no time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if (times := _parse(values, pa.timestamp("us"), decoding)) is not None:
        return times
    zoned, null = pc.match_substring_regex(values, ZONE), pa.scalar(None, pa.string())
    local = _parse(pc.if_else(zoned, null, values), pa.timestamp("us"), decoding)
    in_utc = _parse(pc.if_else(zoned, values, null), pa.timestamp("us", "UTC"), decoding)
    if local is None or in_utc is None:
        return None
    return pc.coalesce(local, pc.cast(in_utc, pa.timestamp("us")))


def _to_days(values: Any, decoding: Decoding) -> np.ndarray | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    times = _parse_times(values, decoding) if _is_text(values) else values
    if times is None or not pa.types.is_timestamp(times.type):
        return None
    return pc.cast(pc.cast(times, pa.int64()), pa.float64()).to_numpy(zero_copy_only=False) / DAY


CONVERSIONS: dict[Kind, Callable[[Any, Decoding], np.ndarray | None]] = {
    "number": _to_numbers,
    "bool": _to_booleans,
    "date": _to_days,
}
