"""Data augmentation that mixes the rows of a batch and their targets: mixup and CutMix."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jdl.data.augment import BatchTransform, window_mask
from jdl.types import Array, Batch, Bounds, Error, Key

Classes = int | Mapping[str, int] | None  # the number of classes: of y, or by target column


def mixup(
    alpha: float = 0.2, classes: Classes = None, targets: tuple[str, ...] = ("y",)
) -> BatchTransform:
    """Mixup (Zhang et al., 2018): averages each row x, and its target y, with another row's.

    x becomes w x + (1 - w) x', and y the same of the targets; w is drawn from Beta(alpha, alpha)
    for each row, by (seed, epoch, id). The other row is the next one of the shuffled batch. Labels
    of `classes` classes become soft labels y (B, classes), their probabilities; targets of floats,
    of a regression or already soft labels, need no `classes`. Unknown labels (-1) cannot be mixed:
    as floats, such as those of `multi_label`, they would be averaged as if they were known.

    `targets` names the columns of the targets: those of the heads of `heads`, such as
    `targets=("digit", "angle"), classes={"digit": 10}`; none, `()`, where nothing is supervised.
    """
    _check(alpha, targets, "mixup")

    def change(keys: Array, columns: Batch) -> Batch:
        x = columns["x"]
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise Error(
                f"mixup averages rows of x, which must be floats or images of bytes, but x is "
                f"{x.dtype}: whole numbers, such as tokens, have no average."
            )
        weights = jax.vmap(lambda key: _draw_weight(key, alpha))(keys)
        mixed = _average(x, next_rows(x, columns["mask"]), weights)
        return {**columns, "x": mixed, **_mixed(columns, weights, targets, classes, "mixup")}

    return BatchTransform(change, lambda before: _bounds(before, targets, classes, "mixup"))


def cutmix(
    alpha: float = 1.0, classes: Classes = None, targets: tuple[str, ...] = ("y",)
) -> BatchTransform:
    """CutMix (Yun et al., 2019): a rectangle of each image x (H, W, C) is from another row's.

    The share of the area that stays, w, is drawn from Beta(alpha, alpha) for each row, by (seed,
    epoch, id), and the rectangle's middle from all pixels; what lies outside the image is cut off.
    y becomes w y + (1 - w) y', with the true share. The other row, `classes` and
    `targets` are those of `mixup`.
    """
    _check(alpha, targets, "cutmix")

    def change(keys: Array, columns: Batch) -> Batch:
        x = columns["x"]
        if x.ndim != 4:
            raise Error(f"cutmix takes images x (B, H, W, C), but x is of shape {x.shape}.")
        _, height, width, _ = x.shape
        stays = jax.vmap(lambda key: _draw_rectangle(key, alpha, (height, width)))(keys)
        mixed = jnp.where(stays, x, next_rows(x, columns["mask"]))
        weights = stays.mean((1, 2, 3), dtype=jnp.float32)
        return {**columns, "x": mixed, **_mixed(columns, weights, targets, classes, "cutmix")}

    return BatchTransform(change, lambda before: _bounds(before, targets, classes, "cutmix"))


def next_rows(column: Array, mask: Array) -> Array:
    """For each real row of a column (B, ...) the next one, and for the last one the first.

    The padding, which comes last in a batch, is never next to a real row. In a shuffled batch this
    pairs each row with a random one.
    """
    last = jnp.arange(len(mask)) == mask.sum() - 1
    last = last.reshape(-1, *(1,) * (column.ndim - 1))
    return jnp.where(last, column[:1], jnp.roll(column, -1, axis=0))


def _check(alpha: float, targets: tuple[str, ...], name: str) -> None:
    if isinstance(targets, str):
        raise Error(f"{name} takes several targets: write targets=({targets!r},), with a comma.")
    if alpha < 0:
        raise Error(f"{name} draws from Beta(alpha, alpha): alpha must be 0 or more, not {alpha}.")


def _draw_weight(key: Key, alpha: float) -> Array:
    """The weight of the row itself, from Beta(alpha, alpha); 1 if alpha is 0."""
    return jax.random.beta(key, alpha, alpha) if alpha else jnp.ones(())


def _draw_rectangle(key: Key, alpha: float, sides: tuple[int, int]) -> Array:
    """The mask (H, W, 1) of the pixels that stay."""
    weight_key, place = jax.random.split(key)
    share = jnp.sqrt(1 - _draw_weight(weight_key, alpha))  # of each side
    middle = jax.random.randint(place, (2,), 0, jnp.asarray(sides))
    half = jnp.floor(jnp.asarray(sides, share.dtype) * share).astype(jnp.int32) // 2
    (top, left), (bottom, right) = middle - half, middle + half
    return ~window_mask(sides, (top, left), (bottom, right))


def _average(a: Array, b: Array, weights: Array) -> Array:
    weights = weights.astype(a.dtype).reshape(-1, *(1,) * (a.ndim - 1))
    return weights * a + (1 - weights) * b


def _classes_of(classes: Classes, target: str) -> int | None:
    return classes.get(target) if isinstance(classes, Mapping) else classes


def _mixed(
    columns: Batch, weights: Array, targets: tuple[str, ...], classes: Classes, name: str
) -> Batch:
    """The target columns, averaged with the next row's."""
    missing = [target for target in targets if target not in columns]
    if missing:
        raise Error(
            f"{name} mixes the targets in the column {missing[0]!r}, but the data have only "
            f'{", ".join(sorted(columns))}: name them, as in {name}(targets=("digit", "angle")), '
            "or none, targets=(), where nothing is supervised."
        )

    def mixed(target: str) -> Array:
        y, number = columns[target], _classes_of(classes, target)
        whole = jnp.issubdtype(y.dtype, jnp.integer)
        if whole != (number is not None) or (whole and y.ndim > 1):
            raise Error(
                f"{name} averages targets: labels (B,) of whole numbers, with their number as in "
                f"{name}(classes=10), or floats without `classes`; here {target} of a batch is "
                f"{y.dtype} of shape {y.shape}, and classes={number}."
            )
        y = y if number is None else jax.nn.one_hot(y, number)
        return _average(y, next_rows(y, columns["mask"]), weights)

    return {target: mixed(target) for target in targets}


def _bounds(before: Bounds, targets: tuple[str, ...], classes: Classes, name: str) -> Bounds:
    """The bounds after mixing: an average lies between its parts, and a probability in 0 to 1."""
    after = dict(before)
    for target in targets:
        number = _classes_of(classes, target)
        if number is None:
            continue
        low, high = before.get(target, (0, 0))
        if low < 0 or high >= number:
            raise Error(
                f"{name}(classes={number}) takes labels from 0 to {number - 1}, but the column "
                f"{target} has {low:g} to {high:g}: give the number of classes of the data."
            )
        after[target] = (0.0, 1.0)
    return after
