"""Input files for predictions: images, sounds, npz arrays, texts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from jdl.data.array_files import read_npy, read_npz
from jdl.data.decoded_files import naming, open_file
from jdl.data.image_files import READ as IMAGES
from jdl.data.image_files import open_image
from jdl.data.padding import padded
from jdl.data.text_files import read_lines
from jdl.types import Batch, Error, Tokenizer

Columns = dict[str, np.ndarray]
SIZES = ("length", "width")  # columns of how much of a row is no padding


@runtime_checkable
class ReadsFiles(Protocol):
    """A dataset or source made of files, which reads new files as it read its own."""

    def read_file(self, path: Path) -> tuple[list[str], Columns] | None:
        """A name for each row of a file, and its columns; None for another kind of file."""


def read_inputs(
    paths: Sequence[Path],
    spec: Batch,
    tokenizer: Tokenizer | None = None,
    columns: Sequence[str] = ("x",),
    reader: ReadsFiles | None = None,
) -> tuple[list[str], Columns]:
    """Reads inputs from files: a name for each row, and `columns` (N, ...) as in `spec`.

    If `spec` has the column `length` (N,), it is read from npz files, and for text files it is the
    number of tokens. If the predictions read the column `width`, images of any size are brought to
    the model's height, and padded on the right. Files of the kind that the run
    was trained on are decoded as in training, by the `reader`, the run's own data. Raises `Error`
    for a file that cannot be read or has another shape.
    """
    spec = {name: part for name, part in spec.items() if name != "width" or name in columns}
    columns = [name for name in columns if name not in SIZES]
    if not paths:
        raise Error("There is no file to predict for: the folders that were named are empty.")
    names: list[str] = []
    parts: list[Columns] = []
    for path in paths:
        part_names, part = _read_file(path, spec, tokenizer, columns, reader)
        _check_shapes(path, part, spec, columns)
        names += part_names
        parts.append(part)
    for path, part in zip(paths, parts, strict=True):
        if part.keys() != parts[0].keys() or any(
            part[name].dtype != parts[0][name].dtype for name in columns
        ):
            raise Error(
                f"{path} is of another kind than {paths[0]}, with other columns or types: predict "
                "images, arrays, texts and tables in separate calls."
            )
    return names, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_names(paths: Sequence[Path], names: Sequence[str]) -> None:
    """Raises `Error` for arrays without names, where the model reads the columns of a table."""
    for path in paths:
        if path.suffix == ".npy":
            raise Error(
                f"{path} has no names, and the model reads {', '.join(names)}: give a table, or "
                "the x that is encoded already as an .npz file."
            )


def _check_shapes(path: Path, part: Columns, spec: Batch, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in part:
            raise Error(
                f"The predictions read the column {name}, and {path} has only {', '.join(part)}."
            )
        found, shape = part[name].shape[1:], tuple(spec[name].shape[1:])
        if found != shape:
            which = "" if name == "x" else f" in {name}"
            raise Error(
                f"{path} has rows of shape {found}{which}, but the model needs {shape}: resize "
                "them first."
            )
    if len({len(column) for column in part.values()}) > 1:
        raise Error(f"The columns {', '.join(part)} of {path} differ in their number of rows.")


def _read_file(
    path: Path,
    spec: Batch,
    tokenizer: Tokenizer | None,
    columns: Sequence[str],
    reader: ReadsFiles | None,
) -> tuple[list[str], Columns]:
    """The names of the rows of one file, and its columns."""
    first = columns[0]
    shape = tuple(spec[first].shape[1:])
    if path.suffix == ".npz":
        found = read_npz(path, [*columns, *(name for name in SIZES if name in spec)])
        return [f"{path}[{row}]" for row in range(len(found[first]))], found
    if path.suffix == ".npy" and len(columns) == 1:
        found = {first: read_npy(path)}
        return [f"{path}[{row}]" for row in range(len(found[first]))], found
    if reader and (rows := reader.read_file(path)):
        return rows
    if len(columns) > 1:
        raise Error(
            f"The predictions read the columns {', '.join(columns)}: save them in one .npz file, "
            f"by these names, in place of {path}."
        )
    if path.suffix == ".txt" and tokenizer and "length" in spec:
        names, tokens, lengths = _encode_lines(path, tokenizer, shape[0])
        return names, {first: tokens, "length": lengths}
    if path.suffix.lower() in IMAGES:
        if "width" in spec:
            pixels, width = _read_line(path, shape)
            return [str(path)], {first: pixels[None], "width": np.asarray([width], np.int32)}
        channels = shape[-1] if len(shape) == 3 else 1
        return [str(path)], {first: _read_image(path, channels)[None]}
    raise Error(
        f"{path} is neither an image ({' '.join(IMAGES)}) nor an .npz file, nor a .txt file for a "
        "model that reads text, nor of a kind that the run's own data are read from."
    )


def _encode_lines(
    path: Path, tokenizer: Tokenizer, max_length: int
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Lines of text: where each is, tokens (N, max_length) with `end` after them, lengths (N,)."""
    places, lines = read_lines(path)
    encoded = [np.append(tokenizer.encode(line), np.int32(tokenizer.eos_id)) for line in lines]
    longest = max(range(len(lines)), key=lambda row: len(encoded[row]))
    if len(encoded[longest]) > max_length:
        raise Error(
            f"{places[longest]} has {len(encoded[longest])} tokens, but the model reads at most "
            f"{max_length}: shorten it."
        )
    return places, *padded(encoded, max_length, fill=tokenizer.eos_id)


def _read_image(path: Path, channels: int) -> np.ndarray:
    """An image's pixels (H, W, channels), bytes."""
    with naming(str(path)), open_file(path) as file:
        pixels = np.asarray(open_image(file, channels))
    return pixels.reshape(*pixels.shape[:2], channels)


def _read_line(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """An image's pixels at the model's height, padded on the right to `shape`, and its width."""
    from PIL import Image

    height, most, channels = shape
    with naming(str(path)), open_file(path) as file:
        image = open_image(file, channels)
        width = max(1, round(image.width * height / image.height))
        if width <= most:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
    if width > most:
        raise Error(
            f"{path} is {image.width} x {image.height} pixels, which are {width} x {height} at the "
            f"model's height, and it reads images of up to {most}: crop the line, or cut it in two."
        )
    x = np.zeros(shape, np.uint8)
    x[:, :width] = np.asarray(image).reshape(height, width, channels)
    return x, width
