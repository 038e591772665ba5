"""Input files for predictions: images, npz arrays, lines of text and tables of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jdl.data import LabelledText
from jdl.data.record_files import read_npz
from jdl.data.text_files import read_rows
from jdl.types import Batch, Error, Tokenizer

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


TEXTS = (".csv", ".tsv", ".jsonl", ".ndjson")


def read_inputs(
    paths: Sequence[Path],
    spec: Batch,
    tokenizer: Tokenizer | None = None,
    labelled: LabelledText | None = None,
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Reads inputs from files: a name for each row, and columns x (N, ...) as in `spec`.

    If `spec` has the column `length` (N,), it is read from npz files, and for text files it is the
    number of tokens. Texts become what `labelled`, the run's data, makes of its own. Raises `Error`
    for a file that cannot be read or has another shape.
    """
    shape = tuple(spec["x"].shape[1:])
    names: list[str] = []
    parts: list[dict[str, np.ndarray]] = []
    for path in paths:
        part_names, part = _read_file(path, spec, tokenizer, labelled)
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
    path: Path, spec: Batch, tokenizer: Tokenizer | None, labelled: LabelledText | None
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The names of the rows of one file, and its columns."""
    shape = tuple(spec["x"].shape[1:])
    if path.suffix == ".npz":
        columns = read_npz(path, [name for name in ("x", "length") if name in spec])
        return [f"{path}[{row}]" for row in range(len(columns["x"]))], columns
    if labelled and path.suffix.lower() in TEXTS:
        rows = read_rows(path, labelled.text, None)
        return rows.places, labelled.encode(rows.texts)
    if labelled and path.suffix == ".txt":
        texts = [(line,) for line in _read_lines(path)]
        if len(labelled.text) > 1:
            raise Error(f"{path}: pairs of texts are read from .csv or .jsonl files.")
        return [f"{path}:{row + 1}" for row in range(len(texts))], labelled.encode(texts)
    if path.suffix == ".txt" and tokenizer and "length" in spec:
        columns = _encode_lines(path, tokenizer, shape[0])
        return [f"{path}:{row + 1}" for row in range(len(columns["x"]))], columns
    if path.suffix.lower() in IMAGES:
        channels = shape[-1] if len(shape) == 3 else 1
        return [str(path)], {"x": _read_image(path, channels)[None]}
    raise Error(
        f"{path} is neither an image ({' '.join(IMAGES)}) nor an .npz file, nor, for a model that "
        f"reads text, a .txt file; nor, for one of labelled texts, one of {' '.join(TEXTS)}."
    )


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"{path} cannot be read as UTF-8 text: {error}.") from error
    if not lines:
        raise Error(f"{path} is empty: write one input per line.")
    return lines


def _encode_lines(path: Path, tokenizer: Tokenizer, max_length: int) -> dict[str, np.ndarray]:
    """Lines of text as tokens x (N, max_length), each with `end` after it, and `length` (N,)."""
    lines = _read_lines(path)
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
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    except (OSError, UnidentifiedImageError, KeyError) as error:
        raise Error(
            f"{path} cannot be read as an image with {channels} channels: {error}."
        ) from error
    return pixels.reshape(*pixels.shape[:2], channels)
