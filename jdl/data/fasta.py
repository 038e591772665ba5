"""DNA sequences with labels, read from FASTA files: the bases as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from jdl.data.dataset import Dataset, arrays
from jdl.data.folders import class_codes, shown, table_rows
from jdl.data.padding import padded, padded_length
from jdl.data.text_files import read_lines
from jdl.types import Error

SUFFIXES = (".fasta", ".fa", ".fna", ".ffn")
BASES = "ACGT"  # they are 1 to 4; 0 is an unknown base, and padding
UNKNOWN = "NRYSWKMBDHV"  # IUPAC's letters for one of several bases
NO_BASE = 255


def _codes() -> np.ndarray:
    """The number of each letter, upper or lower case, by its place in ASCII. U is RNA's T."""
    codes = np.full(256, NO_BASE, np.uint8)
    numbers = dict.fromkeys(UNKNOWN, 0) | {base: n for n, base in enumerate(BASES, 1)} | {"U": 4}
    for letter, number in numbers.items():
        codes[[ord(letter), ord(letter.lower())]] = number
    return codes


CODES = _codes()


@dataclass(frozen=True, eq=False, repr=False)
class DNA(Dataset):
    """A dataset of DNA sequences; see `fasta`.

    `motifs` are those that are known to be in them, by name: the probabilities (L, 4) of the bases
    A, C, G, T at each place (a position weight matrix, PWM).
    """

    motifs: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def max_length(self) -> int:
        """The bases of a row, padding included."""
        return self.source.take(np.zeros(1, np.int32))["x"].shape[1]

    def with_motifs(self, **motifs: np.ndarray) -> DNA:
        """The same dataset with these known motifs, beside which those found are shown."""
        for name, pwm in motifs.items():
            if pwm.ndim != 2 or pwm.shape[1] != len(BASES) or not np.allclose(pwm.sum(1), 1):
                raise Error(
                    f"The motif {name} must have the probabilities of A, C, G and T at each place, "
                    f"(L, 4), which sum to 1; its shape is {pwm.shape}."
                )
        return replace(self, motifs=motifs)

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """The names of the sequences in a FASTA file, and their columns x and length.

        None for another kind of file.
        """
        if path.suffix.lower() not in SUFFIXES:
            return None
        records = read_fasta(path)
        x, length = _columns(records, self.max_length)
        return [record.name for record in records], {"x": x, "length": length}


@dataclass(frozen=True)
class Record:
    """A sequence of a FASTA file: its name, where its header is, and the numbers of its bases."""

    name: str
    place: str  # such as genes.fasta:17
    bases: np.ndarray


def fasta(
    *files: str | Path,
    table: str | Path | None = None,
    name: str = "name",
    label: str = "label",
    labels: Sequence[str] | None = None,
    max_length: int | None = None,
) -> DNA:
    """DNA sequences of FASTA files, for classification: `fasta("exon.fa", "intron.fa")`.

    Each file is a class of its own name, in this order; or, with a `table`, a CSV file has the
    label of each sequence in its column `label`, and in the column `name` the first word of the
    sequence's header. `labels` are the classes in another order than the files', or, with a table,
    than the alphabet's. Columns: x (T,), the bases A, C, G, T (or U) as 1 to 4, with 0 for N and
    the other letters of unknown bases, and as padding; `length`, the number of bases; y. Rows are
    as long as the longest sequence, or `max_length`: give files for a test the length of the
    training data. Raises `Error` with file and line for what is no DNA, for a longer sequence, and
    for one without a label.
    """
    if not files:
        raise Error("fasta takes at least one FASTA file.")
    found = [read_fasta(Path(file)) for file in files]
    if table is None:
        names = _names_of_files(files, found, labels)
        known = tuple(dict.fromkeys(names) if labels is None else labels)
    else:
        names = _names_in_table(Path(table), name, label, found)
        known = tuple(sorted(set(names)) if labels is None else labels)
    codes, records = class_codes(known), [record for part in found for record in part]
    for record, given in zip(records, names, strict=True):
        if given not in codes:
            raise Error(
                f"{record.place}: the label of {record.name} is {given!r}, which is none of the "
                f"labels {', '.join(known)}."
            )
    longest = max(len(record.bases) for record in records)
    x, length = _columns(records, padded_length(longest) if max_length is None else max_length)
    return dna(x, length, known, y=np.asarray([codes[given] for given in names], np.int32))


def dna(x: np.ndarray, length: np.ndarray, labels: Sequence[str], **columns: np.ndarray) -> DNA:
    """The dataset of these columns."""
    plain = arrays(labels, x=x, length=length, **columns)
    return DNA(plain.source, plain.ids)


def read_fasta(path: Path) -> list[Record]:
    """The sequences of a FASTA file, in its order; `Error` with file and line for a bad one."""
    parts: list[tuple[str, str, list[np.ndarray]]] = []
    for place, line in zip(*read_lines(path), strict=True):
        if line.startswith(">"):
            if not line[1:].strip():
                raise Error(f"{place} is a header without a name: write >NAME.")
            parts.append((line[1:].split()[0], place, []))
        elif not parts:
            raise Error(f"{place} stands before the first header, which is a line of >NAME.")
        else:
            parts[-1][2].append(_encode(line.strip(), place))
    if empty := next((part for part in parts if not part[2]), None):
        raise Error(f"{empty[1]}: the sequence {empty[0]} has no bases.")
    return [Record(name, place, np.concatenate(bases)) for name, place, bases in parts]


def _encode(line: str, place: str) -> np.ndarray:
    """The numbers of a line's bases."""
    bases = CODES[np.frombuffer(line.encode("ascii", "replace"), np.uint8)]
    if (bases == NO_BASE).any():
        letter = line[int((bases == NO_BASE).argmax())]
        raise Error(
            f"{place} has the letter {letter!r}, which is no base (A, C, G, T, U, or "
            f"{UNKNOWN[0]} and the like for an unknown one): is it a protein, or an alignment "
            "with gaps?"
        )
    return bases


def _columns(records: Sequence[Record], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The bases x (N, steps), padded with 0, and their numbers."""
    for record in records:
        if len(record.bases) > steps:
            raise Error(
                f"{record.place}: the sequence {record.name} has {len(record.bases)} bases, and "
                f"the rows have {steps}: cut it into parts of at most that length."
            )
    return padded([record.bases for record in records], steps)


def _names_of_files(
    files: Sequence[str | Path], found: Sequence[Sequence[Record]], labels: Sequence[str] | None
) -> list[str]:
    """The class of each sequence, which is the name of its file."""
    stems = [Path(file).stem for file in files]
    class_codes(stems)
    if len(files) < 2 and labels is None:
        raise Error(
            f"{shown(files[0])} alone would be one class: give a file for each class, or a table "
            "with the label of each sequence, table=..."
        )
    return [stem for stem, records in zip(stems, found, strict=True) for _ in records]


def _names_in_table(
    table: Path, name: str, label: str, found: Sequence[Sequence[Record]]
) -> list[str]:
    """The class of each sequence, by its name in a table."""
    given: dict[str, str] = {}
    for line, (key, value) in table_rows(table, name, label):
        if given.setdefault(key, value) != value:
            raise Error(
                f"{shown(table)}, line {line}: {key} has the label {value}, and the label "
                f"{given[key]} in a line before."
            )
    for record in (record for records in found for record in records):
        if record.name not in given:
            raise Error(f"{record.place}: the sequence {record.name} has no row in {shown(table)}.")
    return [given[record.name] for records in found for record in records]
