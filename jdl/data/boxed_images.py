"""Images with boxes as examples, for object detection: from arrays, or with COCO's annotations."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdl.boxes import clip
from jdl.data.dataset import Dataset, arrays
from jdl.data.decoded_files import naming, open_file
from jdl.data.image_files import image_decoder, open_image
from jdl.types import Error

BESIDE = 1.0  # pixels that a box of an annotation may be out of its image: it is rounded


class Fitted(NamedTuple):
    """An image that was brought to another size, and where it is within it."""

    pixels: np.ndarray  # (H, W, channels) of bytes
    before: np.ndarray  # (2,): its width and height before
    scale: np.ndarray  # (2,): by how much these were multiplied
    corner: np.ndarray  # (2,): its left and top edge

    def boxes(self, before: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) of the image before, where they are now."""
        return before * np.tile(self.scale, 2) + np.tile(self.corner, 2)

    def boxes_before(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) where they are in the image before, and no farther than its edges."""
        edges = (boxes - np.tile(self.corner, 2)) / np.tile(self.scale, 2)
        return clip(edges, self.before[1], self.before[0])


class _Object(NamedTuple):
    """An annotation."""

    id: Any
    box: list[float]  # x, y, width, height
    category: str


def boxed_images(
    x: Any,
    boxes: Sequence[Any],
    y: Sequence[Any],
    labels: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Dataset:
    """Images with boxes, for object detection: `boxed_images(x, boxes, y, labels=["cat", "dog"])`.

    x (N, H, W, C) are the images; bytes, which batches have as float32 from 0 to 1, or floats. Of
    each image, `boxes` has an array (n, 4) of the left, top, right and bottom edge (x0, y0, x1, y1)
    in pixels, and y (n,) the labels from 0 on. n may be 0. Columns: x, `boxes` (N, T, 4) and y
    (N, T), padded with -1. Raises `Error` with image and box for one that is empty, reversed or out
    of the image, and for a label that is no index of `labels`. `names` are those of the images, for
    the messages.
    """
    x = np.asarray(x)
    if x.ndim != 4 or len(x) != len(boxes) or len(x) != len(y):
        raise Error(
            f"boxed_images takes images (N, H, W, C), and boxes and labels of each, but x is of "
            f"shape {x.shape}, with boxes of {len(boxes)} and labels of {len(y)} images."
        )
    most = max(1, *map(len, boxes))
    padded = np.zeros((len(x), most, 4), np.float32)
    classes = np.full((len(x), most), -1, np.int32)
    for n, (of_image, label) in enumerate(zip(boxes, y, strict=True)):
        name = names[n] if names else f"Image {n}"
        edges = _checked(name, of_image, label, x.shape[1:3], len(labels))
        padded[n, : len(edges)], classes[n, : len(edges)] = edges, label
    return arrays(labels, x=x, boxes=padded, y=classes)


def coco(
    annotations: str | Path,
    folder: str | Path,
    size: int | tuple[int, int],
    *,
    channels: int = 3,
    labels: Sequence[str] | None = None,
) -> Dataset:
    """Images with boxes in COCO's format (Lin et al., 2014): `coco("boxes.json", "photos", 256)`.

    The JSON file has `images` (id, file_name in the `folder`), `annotations` (image_id,
    category_id, bbox as x, y, width and height in pixels) and `categories` (id, name). Images are
    brought to `size`, (H, W) or a number for both, between black bars, and boxes with them. Columns
    as of `boxed_images`. The classes are the categories in the order of their ids, or `labels`:
    give a test set those of the training set. Boxes around crowds (iscrowd) are left out, with a
    warning. Raises `Error` with the annotation for what is missing or does not fit.
    """
    path, decoder = Path(annotations), image_decoder(size, channels, "pad")
    data = _read(path)
    images = _by_id(path, data, "images", "file_name")
    categories = _by_id(path, data, "categories", "name")
    classes = tuple(labels or (categories[id] for id in sorted(categories)))
    if unknown := sorted({name for name in categories.values() if name not in classes}):
        raise Error(f"{path} has the category {unknown[0]}, which is none of {list(classes)}.")
    objects, crowds = _objects(path, data, images, categories)
    if crowds:
        warnings.warn(f"{path}: {crowds} boxes around crowds are left out.", stacklevel=2)
    files = {id: Path(folder) / name for id, name in images.items()}
    fitted = {id: fit_image(file, decoder.size, decoder.channels) for id, file in files.items()}
    return boxed_images(
        np.stack([fitted[id].pixels for id in files]),
        [_scaled(f"{path}: {files[id]}", fitted[id], objects[id]) for id in files],
        [[classes.index(each.category) for each in objects[id]] for id in files],
        classes,
        [str(file) for file in files.values()],
    )


def fit_image(path: Path, size: tuple[int, int], channels: int) -> Fitted:
    """An image file at `size`, (H, W), between black bars, as by `image_folder(fit="pad")`."""
    from PIL import Image, ImageOps

    with naming(str(path)), open_file(path) as file:
        image = open_image(file, channels)
        inner = ImageOps.contain(image, size[::-1], Image.Resampling.BILINEAR)
    before, after = np.asarray(image.size), np.asarray(inner.size)
    left, top = (round((size[1 - n] - inner.size[n]) / 2) for n in range(2))
    pixels = np.zeros((*size, channels), np.uint8)
    content = np.asarray(inner).reshape(inner.height, inner.width, channels)
    pixels[top : top + inner.height, left : left + inner.width] = content
    return Fitted(pixels, before, after / before, np.asarray([left, top]))


def _objects(
    path: Path, data: Any, images: dict[Any, str], categories: dict[Any, str]
) -> tuple[dict[Any, list[_Object]], int]:
    """The objects of each image, by its id, and how many boxes around crowds there are besides."""
    objects, crowds = defaultdict[Any, list[_Object]](list), 0
    for n, entry in enumerate(data["annotations"]):
        image, category, box = (entry.get(key) for key in ("image_id", "category_id", "bbox"))
        if image not in images or category not in categories or not _is_box(box):
            raise Error(
                f"{path}: annotation {entry.get('id', n)} needs the image_id of an image, the "
                f"category_id of a category, and a bbox of 4 numbers, but it has {image!r}, "
                f"{category!r} and {box!r}."
            )
        if entry.get("iscrowd"):
            crowds += 1
        else:
            objects[image].append(_Object(entry.get("id", n), box, categories[category]))
    return objects, crowds


def _is_box(box: Any) -> bool:
    numbers = box if isinstance(box, list) else []
    return [isinstance(n, int | float) and not isinstance(n, bool) for n in numbers] == [True] * 4


def _scaled(name: str, image: Fitted, objects: Sequence[_Object]) -> np.ndarray:
    """The boxes of an image before as edges (n, 4) within it as it is now; checks them before."""
    width, height = image.before.tolist()
    given = np.asarray([each.box for each in objects], np.float64).reshape(-1, 4)
    edges = np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], -1)
    inside = clip(edges, height, width)
    edges = np.where(np.abs(edges - inside) <= BESIDE, inside, edges)
    for each, (x0, y0, x1, y1) in zip(objects, edges, strict=True):
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise Error(
                f"{name}: annotation {each.id} has the bbox {each.box}, which is empty, reversed "
                f"or out of the image of {width} x {height} pixels: a bbox is x, y, width and "
                "height in pixels of the image."
            )
    return clip(image.boxes(edges), *image.pixels.shape[:2])  # of what is rounded


def _checked(
    name: str, boxes: Any, labels: Any, sides: tuple[int, ...], classes: int
) -> np.ndarray:
    """The boxes (n, 4) of an image; raises `Error` for one that is wrong, or has a wrong label."""
    boxes, labels = np.asarray(boxes, np.float64), np.asarray(labels)
    if boxes.size == 0 and labels.size == 0:
        return np.zeros((0, 4))
    if boxes.shape != (len(labels), 4) or labels.ndim != 1:
        raise Error(
            f"{name} has boxes of shape {boxes.shape} and labels of shape {labels.shape}: it needs "
            "(n, 4) and (n,)."
        )
    height, width = sides
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise Error(
                f"{name}: box {k} from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) is empty, reversed or "
                f"out of the image of {width} x {height} pixels: a box is x0, y0, x1, y1, the "
                "left, top, right and bottom edge."
            )
    top = classes - 1 if classes else np.inf
    wrong = np.flatnonzero((labels < 0) | (labels > top) | (labels != np.floor(labels)))
    if len(wrong):
        raise Error(
            f"{name}: box {wrong[0]} has the label {labels[wrong[0]]}, which is no whole number "
            f"from 0 to {top:g}."
        )
    return boxes


def _read(path: Path) -> Any:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Error(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict) or not {"images", "annotations", "categories"} <= set(data):
        raise Error(f"{path} must have images, annotations and categories, as COCO's files do.")
    return data


def _by_id(path: Path, data: Any, part: str, key: str) -> dict[Any, str]:
    """What each entry of a part has at a key, by the entry's id."""
    found = {}
    for n, entry in enumerate(data[part]):
        if "id" not in entry or key not in entry or entry["id"] in found:
            raise Error(f"{path}: entry {n} of {part} needs an id of its own, and a {key}.")
        found[entry["id"]] = entry[key]
    if not found:
        raise Error(f"{path} has no {part}.")
    return found
