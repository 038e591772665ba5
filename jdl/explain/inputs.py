"""Figures of attribution: which parts of an input a prediction rests on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdl.explain.attribution import attributions, map_correlation, shuffle_parameters
from jdl.explain.canvas import grid, pixel_edges, save, show_row, title_layer
from jdl.explain.layers import grad_cam, map_layers
from jdl.explain.subject import Subject
from jdl.figures.rows import is_image, show_image
from jdl.types import Error

MOST_NAMES = 40  # of columns, beside a strip
RESOLUTIONS = 3  # of Grad-CAM that are shown


def draw_attributions(subject: Subject, path: Path) -> str:
    """Draws every method of attribution for each row; what they say, and the sanity check of it."""
    score, x = subject.score, subject.batch["x"]
    if not is_image(x) and x.ndim > 3:
        raise Error(f"Inputs of shape {x.shape[1:]} are neither images nor series nor columns.")
    maps = {name: np.asarray(found) for name, found in attributions(score, x).items()}
    variables = subject.merged[1]
    shuffled = shuffle_parameters(variables["params"], jax.random.key(0))
    random = replace(score, variables={**variables, "params": shuffled})
    others = attributions(random, x)
    if is_image(x):
        _draw_images(subject, maps, path)
    else:
        _draw_strips(subject, maps, path)
    found = {name: map_correlation(maps[name], others[name]) for name in maps}
    check = ", ".join(
        f"{name} {'cannot be said' if np.isnan(one) else f'{one:.2f}'}"
        for name, one in found.items()
    )
    if any(map(np.isnan, found.values())):
        check += " (of maps that are NaN, or the same number everywhere)"
    return (
        "Of the score (the logit) of the predicted class, or of the predicted number. Saliency and "
        "SmoothGrad are gradients: where they are red, a larger number raises the score, where "
        "blue, a smaller one. Integrated gradients and occlusion are red where the input as it is "
        "raises the score over the baseline, blue where it lowers it. Each map has its own scale. "
        "The baseline of integrated gradients and "
        "occlusion is 0 as the model gets it. Sanity check (Adebayo et al., 2018): the rank "
        "correlation with the maps of the same network, its parameters shuffled, which should be "
        f"near 0: {check}."
    )


def draw_grad_cam(subject: Subject, path: Path) -> str:
    """Draws Grad-CAM over each image, of the last layer at each resolution."""
    score, images = subject.score, subject.images(subject.rows)
    layers: dict[tuple[int, int], str] = {}
    for name, out in map_layers(score).items():
        layers[out.shape[1:3]] = name
    chosen = sorted(layers.items())[:RESOLUTIONS]
    if not chosen:
        grad_cam(score)  # raises the error that says why
    cams = [np.asarray(jax.jit(grad_cam, static_argnums=1)(score, name)) for _, name in chosen]
    figure, places = grid(len(images), 1 + len(cams), 1.6, 1.45, 1.4)
    for n, image in enumerate(images):
        show_row(places[n, 0], image, subject.titles()[n])
        for axes, cam in zip(places[n, 1:], cams, strict=True):
            show_image(axes, 0.6 + 0.4 * image)
            extent, top = pixel_edges(image), cam[n].max() or 1
            axes.imshow(
                cam[n], cmap="Reds", alpha=0.8 * cam[n] / top, vmin=0, vmax=top, extent=extent
            )
    for axes, ((h, w), name) in zip(places[0, 1:], chosen, strict=True):
        title_layer(axes, name, f"{h} x {w}")
    save(figure, path)
    return (
        "Red is where the layer sees what raises the score of the predicted class. The deepest "
        "layer knows most of classes and least of places: its map is the coarsest."
    )


def _draw_images(subject: Subject, maps: dict[str, np.ndarray], path: Path) -> None:
    images, titles = subject.images(subject.rows), subject.titles()
    figure, places = grid(len(images), 1 + len(maps), 1.6, 1.45, 1.4)
    for n, image in enumerate(images):
        show_row(places[n, 0], image, titles[n])
        for axes, found in zip(places[n, 1:], maps.values(), strict=True):
            signed = found[n].sum(-1) if found[n].ndim == 3 else found[n]
            _show_signed(axes, signed)
    for axes, name in zip(places[0, 1:], maps, strict=True):
        axes.set_title(name, fontsize=9)
    save(figure, path)


def _draw_strips(subject: Subject, maps: dict[str, np.ndarray], path: Path) -> None:
    """Rows that are no images: the input and the maps as strips, one below the other."""
    from matplotlib.figure import Figure  # slow to import (1 s)

    x, titles, names = np.asarray(subject.batch["x"]), subject.titles(), subject.feature_names()
    named = 0 < len(names) <= MOST_NAMES
    figure = Figure(figsize=(9.6, 1.5 * len(x) + 0.3 + 1.2 * named), layout="constrained")
    places = figure.subplots(len(x), 1, squeeze=False)[:, 0]
    for n, axes in enumerate(places):
        shown = {"input": x[n], **{name: found[n] for name, found in maps.items()}}
        strips = [s.sum(-1) if s.ndim > 1 else s for s in shown.values()]
        scaled = np.stack([strip / (np.abs(strip).max() or 1) for strip in strips])
        axes.imshow(scaled, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="none")
        axes.set_yticks(range(len(shown)), list(shown), fontsize=7)
        axes.set_title(titles[n].replace("\n", ", "), fontsize=8)
        last = n == len(x) - 1
        if named:
            axes.set_xticks(range(len(names)), names if last else [], rotation=90, fontsize=7)
    save(figure, path)


def _show_signed(axes: Any, values: np.ndarray) -> None:
    """Shows numbers (H, W): red above 0, blue below; the strongest hundredth is saturated."""
    most = np.percentile(np.abs(values), 99) or np.abs(values).max() or 1
    axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
