"""Attribution: how much each number of an input has to do with a model's output."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.keys import stream
from jdl.metrics.correlation import rank_correlation
from jdl.types import Array, Error, Key

ScoreFunction = Callable[[Array], Array]  # x (B, ...) to (B,), each row by itself; such as a Score
WINDOWS = 6  # of `occlusion` along a side, by default


def saliency(score: ScoreFunction, x: Array) -> Array:
    """Saliency map (Simonyan et al., 2014): the gradient of the score, of the shape of x.

    It has a sign: where it is positive, more of x raises the score. Of a linear model it is the
    weights. Pictures often show its absolute value.
    """
    return jax.grad(lambda x: score(x).sum())(x)


def integrated_gradients(
    score: ScoreFunction, x: Array, baseline: Array | float = 0.0, steps: int = 64
) -> Array:
    """Integrated gradients (Sundararajan et al., 2017), of the shape of x.

    (x - baseline) times the mean gradient on the line from the baseline to x, by the midpoint rule
    with so many steps. Completeness: they sum to score(x) - score(baseline), up to the rule's
    error; `steps` are enough where they do. The baseline is a number, or an input without
    evidence, which broadcasts to x.
    """
    if steps < 1:
        raise Error(f"steps, those of integrated gradients, must be 1 or more, not {steps}.")
    start = jnp.broadcast_to(jnp.asarray(baseline, x.dtype), x.shape)

    def add(total: Array, step: Array) -> tuple[Array, None]:
        share = ((step + 0.5) / steps).astype(x.dtype)
        return total + saliency(score, start + share * (x - start)), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(x), jnp.arange(steps, dtype=jnp.float32))
    return (x - start) * total / steps


def smooth_grad(
    score: ScoreFunction, x: Array, key: Key, noise: float = 0.15, samples: int = 32
) -> Array:
    """SmoothGrad (Smilkov et al., 2017): the mean saliency map of x with noise added.

    The noise is normal; its standard deviation is `noise` times the range of each row's numbers.
    """
    if samples < 1 or noise < 0:
        raise Error(f"SmoothGrad needs samples >= 1 and noise >= 0, not {samples} and {noise}.")
    axes = tuple(range(1, x.ndim))
    deviation = noise * (x.max(axes, keepdims=True) - x.min(axes, keepdims=True))

    def add(total: Array, n: Array) -> tuple[Array, None]:
        drawn = jax.random.normal(jax.random.fold_in(key, n), x.shape, x.dtype)
        return total + saliency(score, x + deviation * drawn), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(x), jnp.arange(samples))
    return total / samples


def occlusion(
    score: ScoreFunction,
    x: Array,
    size: int | None = None,
    stride: int | None = None,
    baseline: float = 0.0,
) -> Array:
    """Occlusion (Zeiler and Fergus, 2014): how far the score falls where a part of x is covered.

    Squares of `size` x `size` pixels of images (B, H, W, C), windows of `size` steps of series
    (B, T, F), single numbers of (B, F) are replaced by the `baseline`, with a `stride` of half the
    size; by default a sixth of the longer side is a square's. It gives (B, H, W), (B, T) or (B, F):
    the mean fall over the windows that cover a place.
    """
    covers = windows(x.shape[1:], size, stride)
    clean = score(x)

    def fall(cover: Array) -> Array:
        hidden = cover.reshape(1, *cover.shape, *(1,) * (x.ndim - 1 - cover.ndim))
        return clean - score(jnp.where(hidden, jnp.asarray(baseline, x.dtype), x))

    falls = jax.lax.map(fall, jnp.asarray(covers)).astype(jnp.float32)  # (windows, B)
    flat = jnp.asarray(covers.reshape(len(covers), -1), jnp.float32)
    means = falls.T @ flat / flat.sum(0, keepdims=True)
    return means.reshape(-1, *covers.shape[1:])


def windows(
    shape: tuple[int, ...], size: int | None = None, stride: int | None = None
) -> np.ndarray:
    """The windows that cover rows of this shape: (windows, H, W), (windows, T) or (windows, F).

    Together they cover every place: the last along a side ends with it.
    """
    sides = shape[:-1] or shape
    size = (1 if len(shape) == 1 else -(-max(sides) // WINDOWS)) if size is None else size
    stride = max(1, size // 2) if stride is None else stride
    if not (1 <= stride <= size <= max(sides)):
        raise Error(
            f"A window of {size} with a stride of {stride} does not cover rows of shape {shape}: "
            "the stride is from 1 to the size, and the size at most the longer side."
        )
    spans = []
    for side in sides:
        width = min(size, side)
        starts = sorted({*range(0, side - width + 1, stride), side - width})
        places = np.arange(side)[None]
        first = np.asarray(starts)[:, None]
        spans.append((places >= first) & (places < first + width))
    covers = spans[0]
    for span in spans[1:]:
        covers = (covers[:, None, ..., None] & span[None, :, None]).reshape(
            -1, *covers.shape[1:], span.shape[1]
        )
    return covers


def shuffle_parameters(params: Any, key: Key) -> Any:
    """Parameters for the sanity check of saliency maps (Adebayo et al., 2018): each is shuffled.

    Every array keeps its numbers, in a random order: their sizes stay, and what was learned is
    lost. A map that says something of the model is another one with them.
    """

    def shuffle(path: Any, leaf: Array) -> Array:
        mine = stream(key, jax.tree_util.keystr(path))
        return jax.random.permutation(mine, leaf.ravel()).reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(shuffle, params)


def map_correlation(a: Any, b: Any) -> float:
    """Spearman's rank correlation of the maps (B, ...) of two models: the mean over the rows.

    Of those rows that have one: a map with NaN, or with the same number everywhere, has none. NaN
    where no row has.
    """
    pairs = zip(*(np.asarray(maps).reshape(len(maps), -1) for maps in (a, b)), strict=True)
    found = np.asarray([rank_correlation(*pair) for pair in pairs])
    return float(found[~np.isnan(found)].mean()) if not np.isnan(found).all() else float("nan")


METHODS: dict[str, Callable[..., Array]] = {  # by name; each of a score, x and a baseline
    "saliency": lambda score, x, baseline: saliency(score, x),
    "integrated gradients": integrated_gradients,
    "SmoothGrad": lambda score, x, baseline: smooth_grad(
        score, x, stream(jax.random.key(0), "smooth_grad")
    ),
    "occlusion": lambda score, x, baseline: occlusion(score, x, baseline=baseline),
}
"""The methods of attribution that need nothing but a score: those that `jdl explain` draws."""


def attributions(score: Any, x: Array, baseline: float = 0.0) -> dict[str, Array]:
    """Every one of `METHODS` for x, by name, compiled; the score is a pytree, as a `Score` is."""
    found = _attributions(score, x, baseline)
    return {name: found[name] for name in METHODS}  # compiled functions sort what they give


@partial(jax.jit, static_argnums=2)
def _attributions(score: Any, x: Array, baseline: float) -> dict[str, Array]:
    return {name: method(score, x, baseline) for name, method in METHODS.items()}
