"""Image files as examples: a folder for each class, or a CSV file with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from operator import index
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jdl.data.bad_rows import OnBad
from jdl.data.dataset import Dataset
from jdl.data.decoded_files import decoded
from jdl.data.folders import class_folders, labelled_by_table
from jdl.types import Bounds, Error

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # no others: EPS runs a program
READ = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
OTHER = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".svg")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}

Fit = Literal["crop", "stretch", "pad"]


def image_folder(
    path: str | Path,
    size: int | tuple[int, int],
    *,
    channels: int = 3,
    fit: Fit = "crop",
    labels: Sequence[str] | None = None,
    on_bad: OnBad = "raise",
    stream: bool = False,
) -> Dataset:
    """Images in a folder for each class: `image_folder("photos", 64)`.

    Columns: x (H, W, channels) of bytes, which batches have as float32 from 0 to 1, and y, the
    class. The classes are the folders of `path`, sorted by name, or `labels`: give a test set those
    of the training set, `labels=train.labels`. Below them, folders may be nested.

    Every image is brought to `size`, (H, W) or a number for both, by bilinear interpolation:
    `fit="crop"` keeps its centre, "pad" all of it between black bars, and "stretch" changes its
    proportions. EXIF orientation is applied, transparency becomes white (with 4 channels it is
    kept), and of an animation the first frame counts.

    Up to 4 GiB are decoded into memory, and cached on disk for the next run. More, or with
    `stream`, is decoded when a batch needs it; the batches are the same. Files that cannot be read
    raise an `Error`; with `on_bad="skip"` they are listed in a warning, and left out.
    """
    decoder = image_decoder(size, channels, fit)
    files = class_folders(Path(path), decoder.suffixes, labels)
    return decoded(files, decoder, on_bad, stream)


def images(
    folder: str | Path,
    table: str | Path,
    size: int | tuple[int, int],
    *,
    file: str = "file",
    label: str = "label",
    target: str | None = None,
    channels: int = 3,
    fit: Fit = "crop",
    labels: Sequence[str] | None = None,
    on_bad: OnBad = "raise",
    stream: bool = False,
) -> Dataset:
    """Images and a CSV file of their labels: `images("photos", "photos/labels.csv", 64)`.

    The column `file` of the table has their paths in `folder`, and `label` the names of their
    classes; they are sorted by name, or in the order of `labels`. For regression, `target` names a
    column of numbers instead. Everything else is as in `image_folder`; the examples are in the
    order of the table.
    """
    decoder = image_decoder(size, channels, fit)
    files = labelled_by_table(Path(folder), Path(table), file, label, target, labels)
    return decoded(files, decoder, on_bad, stream)


@dataclass(frozen=True)
class ImageDecoder:
    """Decodes an image file by Pillow to bytes x (H, W, channels), as `image_folder` tells."""

    size: tuple[int, int]
    channels: int
    fit: Fit

    def __post_init__(self) -> None:
        if self.channels not in MODES:
            raise Error(f"An image has 1, 3 or 4 channels here, not {self.channels}.")
        if self.fit not in ("crop", "stretch", "pad"):
            raise Error(f'fit is "crop", "stretch" or "pad", not {self.fit!r}.')

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of images; files of those that Pillow cannot read are not just ignored."""
        return READ + OTHER

    @property
    def version(self) -> str:
        """The version of Pillow, and of its decoder of JPEG."""
        import PIL
        from PIL import features

        return f"Pillow {PIL.__version__} {features.version('libjpeg_turbo')}"

    @property
    def like(self) -> dict[str, np.ndarray]:
        """A black image."""
        return {"x": np.zeros((*self.size, self.channels), np.uint8)}

    @property
    def bounds(self) -> Bounds:
        """Bytes are from 0 to 255."""
        return {"x": (0, 255)}

    def decode(self, file: BufferedReader) -> dict[str, np.ndarray]:
        """The pixels of an image, {"x": (H, W, channels)}."""
        from PIL import Image

        image = self.fitted(open_image(file, self.channels), Image.Resampling.BILINEAR)
        return {"x": np.asarray(image).reshape(*self.size, self.channels)}

    def fitted(self, image: Any, resampling: Any) -> Any:
        """A Pillow image at `size`, by a filter of Pillow's."""
        from PIL import ImageOps

        size = self.size[::-1]
        if self.fit == "crop":
            return ImageOps.fit(image, size, resampling)
        if self.fit == "pad":
            return ImageOps.pad(image, size, resampling)
        return image.resize(size, resampling)


def open_image(file: BufferedReader, channels: int) -> Any:
    """A Pillow image of 1, 3 or 4 channels, upright; raises any exception where it is damaged."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(open_raw(file))
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_bytes_of(np.asarray(image)))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are numbers of 32 bits ({image.mode}), of unknown range")
    if channels < 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(MODES[channels])


def open_raw(file: BufferedReader) -> Any:
    """A Pillow image as it is in the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(f"it is none of {', '.join(FORMATS)}, or its header is damaged") from error


def _bytes_of(pixels: np.ndarray) -> np.ndarray:
    """Pixels of 16 bits as bytes, rounded: 65,535 is 255."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def image_decoder(size: int | Sequence[int], channels: int, fit: Fit) -> ImageDecoder:
    """The decoder of plain integers, which it has where these are NumPy's."""
    numbers: Any = size if hasattr(size, "__len__") else (size, size)
    try:
        pair = [index(n) for n in numbers]
    except TypeError:
        pair = []
    if len(pair) != 2 or not all(1 <= n <= 16_384 for n in pair):
        raise Error(f"size is a number of pixels, or (height, width), not {size!r}.")
    try:
        return ImageDecoder((pair[0], pair[1]), index(channels), fit)
    except TypeError as error:
        raise Error(f"channels is 1, 3 or 4, not {channels!r}.") from error
