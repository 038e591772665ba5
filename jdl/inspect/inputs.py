"""What a trained run is asked about: images, arrays, or lines of text, read from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from jdl.types import Batch, Error, Tokenizer

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def read_inputs(
    paths: Sequence[Path], spec: Batch, tokenizer: Tokenizer | None = None
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The name of each input and its columns: x (N, ...) as in the spec, and `length` (N,) where the spec has it."""
    shape = tuple(spec["x"].shape[1:])
    names: list[str] = []
    parts: list[dict[str, np.ndarray]] = []
    for path in paths:
        if path.suffix == ".npz":
            part = _npz(path, [name for name in ("x", "length") if name in spec])
            names += [f"{path}[{row}]" for row in range(len(part["x"]))]
        elif path.suffix == ".txt" and tokenizer and "length" in spec:
            part = _lines(path, tokenizer, shape[0])
            names += [f"{path}:{row + 1}" for row in range(len(part["x"]))]
        elif path.suffix.lower() in IMAGES:
            part = {"x": _image(path, shape[-1] if len(shape) == 3 else 1)[None]}
            names.append(str(path))
        else:
            raise Error(
                f"{path} is neither an image ({' '.join(IMAGES)}) nor an .npz file, or .txt for a model of text."
            )
        if part["x"].shape[1:] != shape:
            raise Error(
                f"{path} has the shape {part['x'].shape[1:]} a row, and the model reads {shape}: resize it first."
            )
        parts.append(part)
    if len({part["x"].dtype for part in parts}) > 1:
        raise Error(
            "The inputs mix bytes and other numbers: predict images and arrays in separate calls."
        )
    return names, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _npz(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file]
            if missing:
                raise Error(
                    f"{path} holds {', '.join(file) or 'nothing'}: the inputs must be its array {missing[0]}."
                )
            found = {name: file[name] for name in names}
            if not all(
                isinstance(a, np.ndarray) and a.ndim and a.dtype.kind in "biuf"
                for a in found.values()
            ):
                raise ValueError("it holds something else than arrays of numbers, a row an input")
            return found
    except (OSError, ValueError, EOFError, BadZipFile, NotImplementedError) as error:
        raise Error(f"{path} cannot be read as an npz file: {error}.") from error


def _lines(path: Path, tokenizer: Tokenizer, longest: int) -> dict[str, np.ndarray]:
    """The lines of a text file as tokens x (N, longest), each with an end behind it, and their `length`."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"{path} cannot be read as a text in UTF-8: {error}.") from error
    if not lines:
        raise Error(f"{path} is empty: write one input a line.")
    encoded = [np.append(tokenizer.encode(line), np.int32(tokenizer.end)) for line in lines]
    lengths = np.asarray([len(tokens) for tokens in encoded], np.int32)
    if lengths.max() > longest:
        line = int(lengths.argmax()) + 1
        raise Error(
            f"Line {line} of {path} has {lengths.max()} tokens, and the model reads {longest}: shorten it."
        )
    x = np.full((len(lines), longest), tokenizer.end, np.int32)
    for row, tokens in enumerate(encoded):
        x[row, : len(tokens)] = tokens
    return {"x": x, "length": lengths}


def _image(path: Path, channels: int) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    except (OSError, UnidentifiedImageError, KeyError) as error:
        raise Error(
            f"{path} cannot be read as an image of {channels} channels: {error}."
        ) from error
    return pixels.reshape(*pixels.shape[:2], channels)
