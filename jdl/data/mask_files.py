"""Images and the masks of their pixels' classes, in two folders: for semantic segmentation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

import numpy as np

from jdl.data.dataset import Dataset
from jdl.data.decoded_files import naming, open_file, read_example
from jdl.data.folders import class_codes, shown
from jdl.data.image_files import Fit, ImageDecoder, image_decoder, open_image, open_raw
from jdl.data.source import MEMORY_BYTES, ArraySource
from jdl.types import Error

MODES = ("1", "L", "P")  # Pillow's, of one number a pixel that fits into a byte
ORIENTATION = 0x0112  # EXIF's tag; 1: upright


def image_masks(
    images: str | Path,
    masks: str | Path,
    size: int | tuple[int, int],
    *,
    labels: Sequence[str],
    void: int = 255,
    channels: int = 3,
    fit: Fit = "crop",
) -> Dataset:
    """Images in one folder and their masks in another: `image_masks("photos", "masks", 96, ...)`.

    For semantic segmentation. An image and its mask have the same name but for the suffix, and the
    same size: photos/7.jpg and masks/7.png. A pixel of a mask is the number of its class in
    `labels`, in a gray image, or one with a palette; `void` is where the class is not known.
    Columns: x (H, W, channels) of bytes, and y (H, W), the classes, -1 for `void`.

    Both are brought to `size` alike, as by `jdl.data.image_folder`, the mask by its nearest pixels;
    what `fit="pad"` adds is unknown. Raises `Error` for an image or a mask without the other, a
    mask of another size, a JPEG, colors or 16 bits as a mask, a class that has no label, and an
    image that its EXIF orientation turns.
    """
    decoder = image_decoder(size, channels, fit)
    classes = tuple(class_codes(labels))
    pairs = _pairs(Path(images), Path(masks), decoder)
    height, width = decoder.size
    if len(pairs) * height * width * (channels + 4) > MEMORY_BYTES:
        raise Error(
            f"{len(pairs):,} images of {height} x {width} take more than {MEMORY_BYTES >> 30} GiB: "
            "take a smaller size, or a source of your own, jdl.data.indexed(..., stream=True)."
        )
    x = np.zeros((len(pairs), height, width, channels), np.uint8)
    y = np.zeros((len(pairs), height, width), np.int32)

    def fill(row: int) -> None:
        x[row], y[row] = _read_pair(*pairs[row], decoder, classes, void)

    with ThreadPoolExecutor() as threads:
        list(threads.map(fill, range(len(pairs))))
    _check_classes(y, classes, void)
    source = MaskSource({"x": x, "y": y}, classes, decoder=decoder)
    return Dataset(source, np.arange(len(pairs), dtype=np.int32))


@dataclass(frozen=True, eq=False)
class MaskSource(ArraySource):
    """Images and masks in memory, and how to decode more images alike."""

    decoder: ImageDecoder = field(kw_only=True)

    def read_file(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """The name and the pixels of a new image, decoded alike; None for another kind of file."""
        return read_example(self.decoder, path)


def _check_classes(y: np.ndarray, labels: tuple[str, ...], void: int) -> None:
    """Raises `Error` if the masks tell no classes apart, as where `void` is one of two classes."""
    found = np.unique(y[y >= 0])
    if len(found) < 2:
        only = f"{labels[found[0]]} or void" if len(found) else "void"
        raise Error(
            f"All pixels of the masks are {only} ({void}), so there is nothing to learn: if {void} "
            "is a class, write its number into the masks, the place of its name in `labels`."
        )


def _pairs(images: Path, masks: Path, decoder: ImageDecoder) -> list[tuple[Path, Path]]:
    """The files of each image and its mask, in the order of their names, byte by byte."""
    by_name = _named_files(images, decoder), _named_files(masks, decoder)
    for folder, other, kind in ((0, 1, "mask"), (1, 0, "image")):
        if alone := sorted(by_name[folder].keys() - by_name[other].keys()):
            where = (images, masks)[other]
            raise Error(
                f"{shown(by_name[folder][alone[0]])} has no {kind} of that name in {shown(where)} "
                f"({len(alone)} such files): add it, or move the file away."
            )
    if not by_name[0]:
        raise Error(f"There are no images in {shown(images)}.")
    names = sorted(by_name[0], key=os.fsencode)
    return [(by_name[0][name], by_name[1][name]) for name in names]


def _named_files(folder: Path, decoder: ImageDecoder) -> dict[str, Path]:
    """The images in a folder by their names without the suffix."""
    if not folder.is_dir():
        raise Error(f"{shown(folder)} is not a folder.")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in decoder.suffixes:
            continue
        if path.stem in files:
            raise Error(
                f"{shown(files[path.stem])} and {shown(path)} have the same name but for the "
                "suffix: rename one, and its mask."
            )
        files[path.stem] = path
    return files


def _read_pair(
    image: Path, mask: Path, decoder: ImageDecoder, labels: tuple[str, ...], void: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of an image, and their classes."""
    from PIL import Image

    with naming(shown(image)), open_file(image) as file:
        _check_upright(file)
        whole = open_image(file, decoder.channels)
        pixels = np.asarray(decoder.fitted(whole, Image.Resampling.BILINEAR))
    with naming(shown(mask)), open_file(mask) as file:
        classes = _open_mask(file, whole.size)
        wrong = (classes >= len(labels)) & (classes != void)
        if wrong.any():
            row, column = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f"its pixel in row {row}, column {column} is {classes[row, column]}, and there are "
                f"{len(labels)} labels, for 0 to {len(labels) - 1} ({void} is void)"
            )
        known = Image.fromarray((classes != void).astype(np.uint8))
        chosen = Image.fromarray(np.where(classes != void, classes, 0).astype(np.uint8))
        known, chosen = (
            np.asarray(decoder.fitted(part, Image.Resampling.NEAREST)) for part in (known, chosen)
        )
    shape = (*decoder.size, decoder.channels)
    return pixels.reshape(shape), np.where(known, chosen.astype(np.int32), -1)


def _check_upright(file: BufferedReader) -> None:
    """Raises `ValueError` for a photo that viewers turn: was its mask drawn before, or after?"""
    turned = open_raw(file).getexif().get(ORIENTATION, 1)
    if turned != 1:
        raise ValueError(
            f"it is turned by its EXIF orientation ({turned}), and its mask has none: save it "
            "upright, by PIL.ImageOps.exif_transpose, and look whether the mask fits it"
        )


def _open_mask(file: BufferedReader, size: tuple[int, int]) -> np.ndarray:
    """The numbers (H, W) in a mask; raises `ValueError` where it is none for an image of `size`."""
    image = open_raw(file)
    if image.format == "JPEG":
        raise ValueError("it is a JPEG, which changes numbers: save masks as PNG")
    if image.mode.startswith("I"):
        raise ValueError(
            f"its pixels are numbers of more than 8 bits ({image.mode}): save it as a gray image "
            "of 8 bits, a byte for the class of each pixel"
        )
    if image.mode not in MODES:
        raise ValueError(
            f"it has colors ({image.mode}), and a pixel of a mask is the number of its class: save "
            "it as a gray image, or with a palette"
        )
    if image.size != size:
        raise ValueError(
            f"it has {image.width} x {image.height} pixels, and its image {size[0]} x {size[1]}"
        )
    return np.asarray(image).astype(np.int32)
