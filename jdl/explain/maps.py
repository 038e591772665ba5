"""Figures of filters and feature maps: what the layers of a network look for, and find."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jdl.explain.canvas import grid, save, title_row
from jdl.explain.layers import evenly, layers_of, map_layers, shapes_in_order
from jdl.explain.subject import Subject
from jdl.figures.rows import is_image, show_image
from jdl.types import Error

MOST = 64  # filters that are shown
CHANNELS = 12  # of a layer's maps that are shown
LAYERS = 6


def first_filters(subject: Subject) -> tuple[str, np.ndarray]:
    """The weights of the first layer as images: its path, and (filters, h, w, channels).

    Of a convolution (h, w, channels, filters), or of a dense layer that reads whole images: then
    each is a template of the image's size. Raises `Error` for another first layer.
    """
    spec = subject.data.spec.get("x")
    if spec is None or not is_image(spec):
        raise Error("The rows are no images (H, W, 1 or 3), so the first weights are none either.")
    params = flatten_dict(subject.merged[1]["params"], sep="/")
    order = shapes_in_order(layers_of, subject.any_score)
    name = next((name for name in order if f"{name}/kernel" in params), None)
    if name is None:
        raise Error("The model has no Flax Linen layer with a kernel.")
    kernel = np.asarray(params[f"{name}/kernel"], np.float32)
    if kernel.ndim == 4:
        return name, kernel.transpose(3, 0, 1, 2)
    if kernel.ndim == 2 and len(kernel) == np.prod(spec.shape[1:]):
        return name, kernel.T.reshape(-1, *spec.shape[1:])
    raise Error(
        f"The first layer, {name}, has weights {kernel.shape}, which are no pictures: neither a "
        "convolution's nor those of whole images."
    )


def draw_filters(subject: Subject, path: Path) -> str:
    """Draws the first layer's weights, each on its own scale."""
    name, filters = first_filters(subject)
    shown = filters[:MOST]
    if shown.shape[-1] not in (1, 3):
        raise Error(f"The first layer, {name}, reads {shown.shape[-1]} channels: no picture.")
    columns = min(16 if len(shown) > 10 else 5, len(shown))
    lines = -(-len(shown) // columns)
    side = 0.62 if columns > 5 else 1.4
    figure, cells = grid(lines, columns, side, side)
    places = cells.ravel()
    for axes in places:
        axes.set_axis_off()
    for n, (axes, one) in enumerate(zip(places, shown, strict=False)):
        most = np.abs(one).max() or 1
        if one.shape[-1] == 1:
            axes.imshow(one[..., 0], cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        else:
            show_image(axes, one, -most, most)
        if columns <= 5:
            axes.set_title(
                subject.name(n) if len(filters) == len(subject.labels) else n, fontsize=8
            )
    save(figure, path)
    signs = (
        "Red weights are positive, blue ones negative."
        if shown.shape[-1] == 1
        else ("Gray is 0; a color is a weight of that color's channel.")
    )
    more = f", the first {MOST} of {len(filters)}" if len(filters) > MOST else ""
    return f"The weights of {name}{more}, each scaled by its largest. {signs}"


def draw_feature_maps(subject: Subject, path: Path) -> str:
    """Draws what layers give for the first row: some channels of each."""
    score = subject.any_score
    layers = map_layers(score)
    if not layers:
        raise Error("No layer of the model gives feature maps (B, H, W, C), as a CNN's do.")
    chosen = evenly(list(layers), LAYERS)
    found = jax.jit(layers_of)(score)
    figure, places = grid(len(chosen), CHANNELS, 0.8, 0.85, 1.6)
    for axes in places.ravel():
        axes.spines[:].set_visible(False)
    for line, name in zip(places, chosen, strict=True):
        maps = np.asarray(found[name][0], np.float32)
        liveliest = np.argsort(-maps.std((0, 1)), kind="stable")[:CHANNELS]
        for axes, channel in zip(line, liveliest, strict=False):
            axes.imshow(maps[..., channel], cmap="viridis", interpolation="nearest")
            axes.set_title(channel, fontsize=6, pad=2)
        h, w, channels = maps.shape
        title_row(line[0], f"{name}\n{h} x {w} x {channels}")
    save(figure, path)
    return (
        f"Of row {subject.rows[0]}: in each layer, from the first to the last, the {CHANNELS} "
        "channels that vary most over the image, by their numbers; each has its own scale."
    )
