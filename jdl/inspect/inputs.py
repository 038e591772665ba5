"""Input files for predictions: images, npz arrays and lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from jdl.data.decoded_files import Decoder, naming, open_file
from jdl.data.image_files import open_image
from jdl.types import Batch, Error, Tokenizer

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def read_inputs(
    paths: Sequence[Path],
    spec: Batch,
    tokenizer: Tokenizer | None = None,
    decoder: Decoder | None = None,
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Reads inputs from files: a name for each row, and columns x (N, ...) as in `spec`.

    If `spec` has the column `length` (N,), it is read from npz files, and for text files it is the
    number of tokens. The `decoder` is that of the run's own files: images and sounds are then
    resized, cut or resampled as in training. Raises `Error` for a file that cannot be read or has
    another shape.
    """
    shape = tuple(spec["x"].shape[1:])
    names: list[str] = []
    parts: list[dict[str, np.ndarray]] = []
    for path in paths:
        if decoder and path.suffix.lower() in decoder.suffixes:
            with naming(str(path)), open_file(path) as file:
                example = decoder.decode(file)
            names.append(str(path))
            parts.append({name: column[None] for name, column in example.items()})
            continue
        part_names, part = _read_file(path, spec, tokenizer)
        if part["x"].shape[1:] != shape:
            raise Error(
                f"{path} has rows of shape {part['x'].shape[1:]}, but the model needs {shape}: "
                "resize them first."
            )
        names += part_names
        parts.append(part)
    if len({part["x"].dtype for part in parts}) > 1:
        raise Error(
            "Some inputs hold bytes and some hold other numbers: predict images and arrays in "
            "separate calls."
        )
    return names, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read_file(
    path: Path, spec: Batch, tokenizer: Tokenizer | None
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The names of the rows of one file, and its columns."""
    shape = tuple(spec["x"].shape[1:])
    if path.suffix == ".npz":
        columns = _read_npz(path, [name for name in ("x", "length") if name in spec])
        return [f"{path}[{row}]" for row in range(len(columns["x"]))], columns
    if path.suffix == ".txt" and tokenizer and "length" in spec:
        columns = _read_lines(path, tokenizer, shape[0])
        return [f"{path}:{row + 1}" for row in range(len(columns["x"]))], columns
    if path.suffix.lower() in IMAGES:
        channels = shape[-1] if len(shape) == 3 else 1
        return [str(path)], {"x": _read_image(path, channels)[None]}
    raise Error(
        f"{path} is neither an image ({' '.join(IMAGES)}) nor an .npz file, nor a .txt file for a "
        "model that reads text."
    )


def _read_npz(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file]
            if missing:
                raise Error(
                    f"{path} contains {', '.join(file) or 'nothing'}, but needs an array "
                    f"{missing[0]}: save the inputs under that name."
                )
            columns = {name: file[name] for name in names}
            if not all(_is_numeric(column) for column in columns.values()):
                raise ValueError("it must contain arrays of numbers, with one row per input")
            return columns
    except (OSError, ValueError, EOFError, BadZipFile, NotImplementedError) as error:
        raise Error(f"{path} cannot be read as an npz file: {error}.") from error


def _is_numeric(column: object) -> bool:
    return isinstance(column, np.ndarray) and column.ndim > 0 and column.dtype.kind in "biuf"


def _read_lines(path: Path, tokenizer: Tokenizer, max_length: int) -> dict[str, np.ndarray]:
    """Lines of text as tokens x (N, max_length), each with `end` after it, and `length` (N,)."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"{path} cannot be read as UTF-8 text: {error}.") from error
    if not lines:
        raise Error(f"{path} is empty: write one input per line.")
    encoded = [np.append(tokenizer.encode(line), np.int32(tokenizer.eos_id)) for line in lines]
    lengths = np.asarray([len(tokens) for tokens in encoded], np.int32)
    if lengths.max() > max_length:
        line = int(lengths.argmax()) + 1
        raise Error(
            f"Line {line} of {path} has {lengths.max()} tokens, but the model reads at most "
            f"{max_length}: shorten it."
        )
    x = np.full((len(lines), max_length), tokenizer.eos_id, np.int32)
    for row, tokens in enumerate(encoded):
        x[row, : len(tokens)] = tokens
    return {"x": x, "length": lengths}


def _read_image(path: Path, channels: int) -> np.ndarray:
    """An image's pixels (H, W, channels), bytes."""
    with naming(str(path)), open_file(path) as file:
        pixels = np.asarray(open_image(file, channels))
    return pixels.reshape(*pixels.shape[:2], channels)
