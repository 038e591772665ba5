"""Predictions for image files of any size, which are brought to that of a run's own images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdl.data import arrays
from jdl.data.boxed_images import Fitted, fit_image
from jdl.data.decoded_files import naming, open_file
from jdl.data.image_files import READ as IMAGES
from jdl.data.image_files import open_image
from jdl.data.loader import DatasetLoader
from jdl.inspect.inputs import read_inputs
from jdl.inspect.masks import distinct_stems
from jdl.inspect.restore import TrainedRun
from jdl.objectives.predict import Columns
from jdl.types import Error

Row = dict[str, Any]


def predict_fitted(
    trained: TrainedRun, data: DatasetLoader[Any], inputs: Sequence[Path], batch_size: int
) -> tuple[list[str], list[Fitted], Columns]:
    """The names of images, how each was fitted, and the predictions, with a row for each.

    Of image files, and of the rows of npz files, which have the size of the run's images. Raises
    `Error` for bytes and floats in one call.
    """
    names, images = _read(data, inputs)
    x = np.stack([image.pixels for image in images])
    batches = arrays((), x=x).map(*data.transforms).batches(min(batch_size, len(names)))
    return names, images, trained.predict_all(batches)


def _read(data: DatasetLoader[Any], inputs: Sequence[Path]) -> tuple[list[str], list[Fitted]]:
    """A name for each image, and the image at the size of those of `data`, between black bars."""
    height, width, channels = data.spec["x"].shape[1:]
    names, images = list[str](), list[Fitted]()
    for path in inputs:
        if path.suffix.lower() in IMAGES:
            names.append(str(path))
            images.append(fit_image(path, (height, width), channels))
        else:
            of_file, columns = read_inputs([path], data.spec)
            names += of_file
            size = np.asarray([width, height])
            images += [Fitted(x, size, np.ones(2), np.zeros(2)) for x in columns["x"]]
    for name, image in zip(names, images, strict=True):
        if image.pixels.dtype != images[0].pixels.dtype:
            raise Error(
                f"{name} is of {image.pixels.dtype}, and {names[0]} of {images[0].pixels.dtype}: "
                "predict images and arrays of other types in separate calls."
            )
    return names, images


def draw_on_files(
    kind: str,
    draw: Callable[[Any, Sequence[Row]], Any],
    rows: Sequence[Row],
    inputs: Sequence[Path],
    folder: Path,
) -> list[Path]:
    """Draws rows on the image files that they were found in: photo.KIND.png of photo.jpg.

    `draw(image, rows)` gets a Pillow image in RGB and the rows of its file. Raises `Error`, before
    anything is written, if two images would have the same file.
    """
    images = [path for path in inputs if path.suffix.lower() in IMAGES]
    stems = distinct_stems([str(path) for path in images], kind)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for path, stem in zip(images, stems, strict=True):
        with naming(str(path)), open_file(path) as file:
            image = open_image(file, 3)
        drawn = draw(image, [row for row in rows if row["input"] == str(path)])
        paths.append(folder / f"{stem}.{kind}.png")
        drawn.save(paths[-1])
    return paths
