"""Augmentation of one example: functions (key, example) -> example, mapped over the batch on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jdl.types import Array, Error, Key

Example = dict[str, Array]
Transform = Callable[[Key, Example], Example]


def on_x(change: Callable[[Key, Array], Array]) -> Transform:
    """The transform that changes the column x by `change(key, x)`."""

    def transform(key: Key, example: Example) -> Example:
        return {**example, "x": change(key, example["x"])}

    return transform


def normalise(mean: float | Sequence[float], std: float | Sequence[float]) -> Transform:
    """(x - mean) / std, by one number or one a channel."""
    if not (jnp.asarray(std) > 0).all():
        raise Error(f"normalise divides by std, which must be above 0, and {std} is not.")

    def change(key: Key, x: Array) -> Array:
        mean_x, std_x = (jnp.broadcast_to(jnp.asarray(values, x.dtype), x.shape) for values in (mean, std))
        return (x - mean_x) / std_x

    return on_x(change)


def random_crop(padding: int, fill: float = 0.0) -> Transform:
    """Pads x (H, W, C) by `padding` of `fill` on each side and cuts a random window of its old size."""

    def change(key: Key, x: Array) -> Array:
        padded = jnp.pad(x, ((padding, padding), (padding, padding), (0, 0)), constant_values=fill)
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), x.shape)

    return on_x(change)


def random_flip(probability: float = 0.5) -> Transform:
    """Mirrors x (H, W, C) left to right, with this probability."""
    return on_x(lambda key, x: jnp.where(jax.random.bernoulli(key, probability), x[:, ::-1], x))


def random_erase(side: int, probability: float = 0.5, fill: float = 0.0) -> Transform:
    """Fills a random `side` x `side` square of x (H, W, C), with this probability (Zhong et al., 2017; square)."""

    def change(key: Key, x: Array) -> Array:
        place, chance = jax.random.split(key)
        height, width, _ = x.shape
        if side > min(height, width):
            raise Error(f"random_erase of a square of {side} does not fit into images of {height} x {width}.")
        top = jax.random.randint(place, (), 0, height - side + 1)
        left = jax.random.randint(jax.random.fold_in(place, 1), (), 0, width - side + 1)
        rows, columns = jnp.arange(height), jnp.arange(width)
        square = ((rows >= top) & (rows < top + side))[:, None] & ((columns >= left) & (columns < left + side))[None]
        return jnp.where(jax.random.bernoulli(chance, probability) & square[:, :, None], fill, x)

    return on_x(change)
