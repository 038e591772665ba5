"""Predicted masks as files: a PNG of the classes, and one of their colors over the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from jdl.figures.masks import name_of_class, overlay
from jdl.store.folder import write_atomically
from jdl.types import Error

MOST = 256  # classes that a byte tells apart


def write_masks(
    names: Sequence[str],
    x: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    labels: Sequence[str],
    folder: Path,
) -> list[dict[str, Any]]:
    """Writes NAME.mask.png and NAME.overlay.png for each image, and returns a row for each.

    The mask has the class of each pixel as its byte, the overlay the classes' colors over the
    image. A row has the names of both files, and the share of each class in the pixels, rounded, as
    "share road". x (N, H, W, 1 or 3) are bytes, or from 0 to 1. The predictions are `label`
    (N, H, W) and, where known, `probability` (N, H, W, K). Raises `Error`, before anything is
    written, if two images would have the same file, or there are too many classes for a byte.
    """
    label, probability = predictions["label"], predictions.get("probability")
    classes = max(len(labels), int(label.max()) + 1)
    if probability is not None:
        classes = probability.shape[-1]
    if classes > MOST:
        raise Error(f"A mask of bytes tells {MOST} classes apart, and the model has {classes}.")
    stems = distinct_stems(names, "mask")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, stem, image, mask in zip(names, stems, x, label, strict=True):
        unit = image / 255 if image.dtype == np.uint8 else image
        files = {"mask": mask.astype(np.uint8), "overlay": overlay(unit, mask, labels)}
        row = {"input": name}
        for kind, pixels in files.items():
            path = folder / f"{stem}.{kind}.png"
            _write(path, pixels)
            row[kind] = str(path)
        shares = np.bincount(mask.ravel(), minlength=classes) / mask.size
        named = {f"share {name_of_class(k, labels)}": share for k, share in enumerate(shares)}
        rows.append(row | {name: round(float(share), 4) for name, share in named.items()})
    return rows


def distinct_stems(names: Sequence[str], kind: str) -> list[str]:
    """The name of each input's files; `Error` if two would have one NAME.kind.png."""
    stems = [_stem(name) for name in names]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        both = [name for name, stem in zip(names, stems, strict=True) if stem == twice]
        raise Error(
            f"{both[0]} and {both[1]} would both be written to {twice}.{kind}.png: predict them in "
            "two calls, each with an --out folder of its own."
        )
    return stems


def _stem(name: str) -> str:
    """The name of an input's files: "photo" of dir/photo.png, "data-3" of dir/data.npz[3]."""
    path, bracket, row = Path(name).name.partition(".npz[")
    return f"{path}-{row.rstrip(']')}" if bracket else Path(path).stem


def _write(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    write_atomically(path, file.getvalue())
