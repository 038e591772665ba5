"""Data augmentation: random transforms of one example, mapped over the batch on the device."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.resample import affine_places, resize_window, sample_bilinear
from jdl.types import Array, Batch, Bounds, Error, Key

Example = dict[str, Array]
Transform = Callable[[Key, Example], Example]  # pure
CROP_ATTEMPTS = 10  # windows drawn by `random_resized_crop`, of which it takes the first that fits


@dataclass(frozen=True, eq=False)
class BatchTransform:
    """A data augmentation of a whole batch, such as mixup: `change(keys, columns)`, pure.

    It gets a key (B,) for each row, derived from (seed, epoch, id), and the columns (B, ...), with
    `mask` (B,), which is false in padding; the padding comes last. `bounds` makes the smallest and
    largest values of the columns after it of those before; by default they are unknown.
    """

    change: Callable[[Array, Batch], Batch]
    bounds: Callable[[Bounds], Bounds] = lambda before: {}


Augmentation = Transform | BatchTransform


def on_x(change: Callable[[Key, Array], Array]) -> Transform:
    """The transform that replaces the column x by `change(key, x)`."""

    def transform(key: Key, example: Example) -> Example:
        return {**example, "x": change(key, example["x"])}

    return transform


@dataclass(frozen=True, eq=False)
class Normalize:
    """Normalization of a column: (x - mean) / std; see `normalize` and `standardize`."""

    mean: np.ndarray  # one number, one for each channel, or one for each feature
    std: np.ndarray
    column: str = "x"
    length: str | None = None  # the column of the real time steps; those after it stay as they are

    def __call__(self, key: Key, example: Example) -> Example:
        """The example with its column normalized, as float32."""
        x = example[self.column].astype(jnp.float32)
        mean, std = (  # of the shape of x, because ranks are not promoted silently
            jnp.broadcast_to(jnp.asarray(values, x.dtype), x.shape)
            for values in (self.mean, self.std)
        )
        normalized = (x - mean) / std
        if self.length:
            steps = jnp.arange(len(x)) < example[self.length]
            normalized = jnp.where(steps.reshape(-1, *(1,) * (x.ndim - 1)), normalized, x)
        return {**example, self.column: normalized}


def normalize(mean: float | Sequence[float], std: float | Sequence[float]) -> Normalize:
    """Normalization of x: (x - mean) / std, with one number or one for each channel."""
    if not np.all(np.asarray(std) > 0):
        raise Error(f"normalize divides by std, which must be above 0, not {std}.")
    return Normalize(np.asarray(mean, np.float64), np.asarray(std, np.float64))


@dataclass(frozen=True, eq=False)
class UnitRange:
    """A transform of images x (H, W, C) of floats from 0 to 1, such as a change of colors."""

    name: str
    change: Callable[[Key, Array], Array]

    def __call__(self, key: Key, example: Example) -> Example:
        """The example with its image changed."""
        x = example["x"]
        if x.ndim != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise Error(
                f"{self.name} takes images x (H, W, C) of floats from 0 to 1, or of bytes, but "
                f"here x of an example is {x.dtype} of shape {x.shape}."
            )
        return {**example, "x": self.change(key, x)}

    def check(self, x: np.ndarray) -> None:
        """Raises `Error` for images of floats beyond 0 to 1."""
        if np.issubdtype(x.dtype, np.floating) and (x.min() < 0 or x.max() > 1):
            raise Error(
                f"{self.name} takes floats x from 0 to 1, but here x goes from {x.min():g} to "
                f"{x.max():g}: give bytes (uint8), or divide x by its range first."
            )


def check_signature(transform: Augmentation) -> None:
    """Raises `Error` unless a transform of examples can be called with a key and an example."""
    if isinstance(transform, BatchTransform):
        return
    name = getattr(transform, "__name__", repr(transform))
    if callable(transform):
        try:
            signature = inspect.signature(transform)
        except (TypeError, ValueError):  # of a function that is not written in Python
            return
        try:
            signature.bind(None, {})
        except TypeError:
            name = f"{name}{signature}"
        else:
            return
    raise Error(
        f"A transform is called with (key, example), and {name} cannot be: "
        "lambda key, example: {**example, ...} takes both."
    )


def check_order(transforms: Sequence[Augmentation]) -> None:
    """Raises `Error` where x would be normalized before a transform that needs it from 0 to 1."""
    normalized = False
    for transform in transforms:
        if normalized and isinstance(transform, UnitRange):
            raise Error(
                f"{transform.name} takes x from 0 to 1, but the dataset has normalized x before: "
                f"begin with the dataset as it was, as in raw.shuffled(size, seed, "
                f"{transform.name}(...), train.transforms[-1]), where `train` is normalized."
            )
        normalized |= isinstance(transform, Normalize) and transform.column == "x"


def random_crop(padding: int, fill: float = 0.0) -> Transform:
    """Random crop of images x (H, W, C), padded first (as He et al., 2015, augment CIFAR-10).

    Each side is padded by `padding` pixels of `fill`, and a random window of the original size is
    cut out.
    """

    def change(key: Key, x: Array) -> Array:
        padded = jnp.pad(x, ((padding, padding), (padding, padding), (0, 0)), constant_values=fill)
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), x.shape)

    return on_x(change)


def random_resized_crop(
    size: int | tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Transform:
    """Random resized crop of images x (H, W, C): Inception-style crops (Szegedy et al., 2015).

    A window of a random share of the area, within `scale`, and of a random aspect ratio (width /
    height), within `ratio`, is resized to `size`, by default that of the image. Bilinear
    interpolation with antialiasing. Where none of 10 such windows fits into the image, the largest
    central one is taken, as torchvision does.
    """
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
        raise Error(
            "random_resized_crop takes shares of the area, (least, most), above 0 and up to 1, and "
            f"aspect ratios above 0; given: {scale=}, {ratio=}."
        )

    def change(key: Key, x: Array) -> Array:
        height, width, _ = x.shape
        sides = (height, width) if size is None else (size, size) if isinstance(size, int) else size
        shape_key, place_key = jax.random.split(key)
        share, stretch = jax.random.uniform(shape_key, (2, CROP_ATTEMPTS), x.dtype)
        area = height * width * (scale[0] + share * (scale[1] - scale[0]))
        low, high = map(math.log, ratio)
        root = jnp.exp((low + stretch * (high - low)) / 2)
        tall, wide = jnp.round(jnp.sqrt(area) / root), jnp.round(jnp.sqrt(area) * root)
        fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
        first = jnp.argmax(fits)
        window = jnp.where(
            fits.any(),
            jnp.stack([tall[first], wide[first]]),
            jnp.asarray(_largest_window(height, width, ratio), x.dtype),
        )
        room = jnp.asarray([height, width], x.dtype) - window
        drawn = jnp.floor(jax.random.uniform(place_key, (2,), x.dtype) * (room + 1))
        start = jnp.where(fits.any(), drawn, jnp.floor(room / 2))
        return resize_window(x, start, window, sides)

    return on_x(change)


def _largest_window(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """The height and width of the largest window whose aspect ratio is allowed."""
    if width / height < ratio[0]:
        return max(1, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, max(1, round(height * ratio[1]))
    return height, width


def random_flip(probability: float = 0.5, vertical: bool = False) -> Transform:
    """Random flip: mirrors images x (H, W, C) left to right, with this probability.

    With `vertical` it mirrors them upside down instead.
    """
    axis = 0 if vertical else 1
    return on_x(
        lambda key, x: jnp.where(jax.random.bernoulli(key, probability), jnp.flip(x, axis), x)
    )


def random_affine(
    rotation: float = 0.0, shift: float = 0.0, zoom: float = 0.0, shear: float = 0.0
) -> Transform:
    """Random affine transformation of images x (H, W, C): rotation, translation, scaling, shear.

    Rotates by up to `rotation` degrees, shifts by up to `shift` pixels, scales by a factor from
    1 - `zoom` to 1 + `zoom`, and shears rows sidewards by up to `shear` degrees. Bilinear
    interpolation; 0 outside the image.
    """
    if min(rotation, shift, zoom, shear) < 0 or zoom >= 1 or shear >= 90:
        raise Error(
            "random_affine takes rotation, shift, zoom and shear of 0 or more, zoom below 1 and "
            f"shear below 90; given: {rotation=}, {shift=}, {zoom=}, {shear=}."
        )

    def change(key: Key, x: Array) -> Array:
        turn, zoomed, down, right, slant = jax.random.uniform(key, (5,), x.dtype, -1, 1)
        angle, slope = turn * math.radians(rotation), jnp.tan(slant * math.radians(shear))
        moves = shift * jnp.stack([down, right])
        return sample_bilinear(x, affine_places(x, angle, 1 + zoomed * zoom, slope, moves))

    return on_x(change)


def random_erase(side: int, probability: float = 0.5, fill: float = 0.0) -> Transform:
    """Random erasing (Zhong et al., 2017) of a square of fixed size.

    Fills a square of `side` x `side` pixels at a random place, wholly within images x (H, W, C),
    with this probability. The square of `cutout` may cross the border of the image.
    """

    def change(key: Key, x: Array) -> Array:
        place, chance = jax.random.split(key)
        height, width, _ = x.shape
        if side > min(height, width):
            raise Error(
                f"random_erase of a square of {side} does not fit into images of {height} x "
                f"{width}: take a smaller one."
            )
        ends = jnp.asarray([height - side + 1, width - side + 1])
        top, left = jax.random.randint(place, (2,), 0, ends)
        square = window_mask((height, width), (top, left), (top + side, left + side))
        return jnp.where(jax.random.bernoulli(chance, probability) & square, fill, x)

    return on_x(change)


def cutout(side: int, fill: float = 0.0) -> Transform:
    """Cutout (DeVries and Taylor, 2017): fills a square of every image x (H, W, C).

    The middle of the square of `side` x `side` pixels is any pixel of the image, so that a part of
    it may lie outside. The square of `random_erase` lies wholly within.
    """
    if side < 0:
        raise Error(f"cutout takes the side of a square in pixels, 0 or more, not {side}.")

    def change(key: Key, x: Array) -> Array:
        top, left = jax.random.randint(key, (2,), 0, jnp.asarray(x.shape[:2])) - side // 2
        square = window_mask(x.shape[:2], (top, left), (top + side, left + side))
        return jnp.where(square, fill, x)

    return on_x(change)


def window_mask(
    sides: tuple[int, ...], start: tuple[Array, Array], end: tuple[Array, Array]
) -> Array:
    """The mask (H, W, 1) of the pixels of a window: rows and columns from `start` up to `end`."""
    in_rows, in_columns = (
        (jnp.arange(side) >= first) & (jnp.arange(side) < last)
        for side, first, last in zip(sides, start, end, strict=True)
    )
    return in_rows[:, None, None] & in_columns[None, :, None]


def gaussian_noise(std: float) -> Transform:
    """Gaussian noise: adds normal noise of standard deviation `std` to x, of any shape."""
    if std < 0:
        raise Error(f"gaussian_noise takes a standard deviation of 0 or more, not {std}.")
    return on_x(lambda key, x: x + std * jax.random.normal(key, x.shape, x.dtype))
