"""Embeddings: the features of rows on a plane, and what layers know of the classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jdl.explain.canvas import save
from jdl.explain.layers import evenly, layer_outputs, shapes_in_order
from jdl.explain.subject import Subject
from jdl.figures.embedding import MAX_POINTS, MIN_POINTS, scatter, tsne
from jdl.figures.features import features
from jdl.metrics import linear_probe
from jdl.objectives.predict import map_rows
from jdl.types import Array, Batch, Error, Loader, Objective, Predicts, Variables

PROBE_ROWS = 1_000  # of training, and as many of the evaluation data
MOST_LAYERS = 8
MOST_FEATURES = 512  # of a layer that a probe reads


def pca(codes: np.ndarray, components: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """PCA of embeddings (N, D): the points (N, components), and their shares of the variance."""
    centered = codes - codes.mean(0, keepdims=True, dtype=np.float64)
    left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
    total = max((sizes**2).sum(), 1e-300)
    return (left * sizes)[:, :components], (sizes**2 / total)[:components]


def draw_embeddings(subject: Subject, path: Path) -> str:
    """Draws the input of the last dense layer by PCA and by t-SNE, coloured by class."""
    run, variables = subject.trained.run, subject.trained.variables
    y, label, _ = subject.classified()
    rows = subject.sample(MAX_POINTS)
    codes = map_rows(partial(features, run), variables, subject.batches(rows))["features"]
    y, label = y[rows], label[rows]
    if codes.ndim != 2 or codes.shape[1] < 2 or len(codes) < MIN_POINTS:
        raise Error(f"The features are {codes.shape}: no vector for each of {MIN_POINTS} rows.")
    linear, shares = pca(codes)
    from matplotlib.figure import Figure  # slow to import (1 s)

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, points in ((left, linear), (right, tsne(codes))):
        scatter(axes, points, y, subject.labels)
        wrong = points[y != label]
        axes.scatter(*wrong.T, s=40, facecolors="none", edgecolors="black", linewidths=0.8)
    left.set_title(f"PCA: {shares[0]:.0%} and {shares[1]:.0%} of the variance", fontsize=10)
    right.set_title("t-SNE", fontsize=10)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", markerscale=2)
    save(figure, path)
    return (
        f"The {codes.shape[1]} features of {len(codes):,} rows, coloured by their true classes; "
        f"{int((y != label).sum()):,} errors have a ring. PCA keeps distances and is linear; t-SNE "
        "keeps neighbours, and its distances between clusters mean little."
    )


def probe_layers(
    objective: Objective, variables: Variables, train: Loader, test: Loader | Sequence[Batch]
) -> dict[str, float]:
    """The accuracy of a linear probe of each layer (Alain and Bengio, 2017), by path.

    Of the input, and of up to eight blocks, or layers with a kernel outside of blocks, evenly from
    the first to the last. Outputs with places, (B, H, W, C) or (B, T, C), are averaged over
    neighbouring ones until at most 512 numbers are left, or one for each channel. Probes read up to
    1,000 training rows, with their augmentation, and are tested on as many others. Raises `Error`
    for a model without Linen layers.
    """
    names = probed_layers(objective, variables, train.spec)
    read = partial(_features, objective, names)
    columns = [map_rows(read, variables, data, ["y"], limit=PROBE_ROWS) for data in (train, test)]
    (codes, y), (test_codes, test_y) = (
        (found, found["y"] if found["y"].ndim == 1 else found["y"].argmax(-1)) for found in columns
    )
    order = (["input"] if "input" in codes else []) + names
    return {name: linear_probe(codes[name], y, test_codes[name], test_y) for name in order}


def _features(objective: Any, names: list[str], variables: Variables, batch: Batch) -> Batch:
    _, found = layer_outputs(lambda: objective.predict(variables, batch))
    codes = {name: _pooled(found[name]) for name in names}
    x = batch.get("x")  # a model of several inputs may have none of this name
    if x is None or not jnp.issubdtype(x.dtype, jnp.floating):
        return codes
    return codes | {"input": _pooled(x)}


def _pooled(out: Array) -> Array:
    """Outputs (B, ..., C) with few places, as vectors (B, numbers)."""
    places = out.ndim - 2
    if places > 0:
        side = max(1, int((MOST_FEATURES / out.shape[-1]) ** (1 / places) + 1e-9))
        few = tuple(min(side, n) for n in out.shape[1:-1])
        shape = (len(out), *few, out.shape[-1])
        # It averages where it shrinks.
        out = jax.image.resize(out.astype(jnp.float32), shape, "linear")
    return out.reshape(len(out), -1).astype(jnp.float32)


def probed_layers(objective: Objective, variables: Variables, spec: Batch) -> list[str]:
    """The paths of the blocks and layers that `probe_layers` reads, in their order."""
    if not isinstance(objective, Predicts):
        raise Error("The run predicts nothing.")

    def outputs(variables: Variables, batch: Batch) -> dict[str, Array]:
        return layer_outputs(lambda: objective.predict(variables, batch))[1]

    rows = len(next(iter(spec.values())))
    found = shapes_in_order(outputs, variables, spec)
    names = [name for name, out in found.items() if name and out.ndim > 1 and len(out) == rows]
    stages = _stages(names, flatten_dict(variables["params"], sep="/"))
    if not stages:
        raise Error("The model has no Flax Linen layers with a kernel.")
    return evenly(stages, MOST_LAYERS)


def _stages(names: list[str], params: Mapping[str, Any]) -> list[str]:
    """The numbered blocks of layers ("block_0"), and the layers with a kernel outside of them."""
    kernels = [path.removesuffix("/kernel") for path in params if path.endswith("/kernel")]

    def within(name: str, blocks: list[str]) -> bool:
        return any(name.startswith(f"{block}/") for block in blocks)

    blocks = [n for n in names if re.search(r"_\d+$", n) and any(within(k, [n]) for k in kernels)]
    return [n for n in names if n in (*blocks, *kernels) and not within(n, blocks)]


def draw_probes(subject: Subject, path: Path) -> str:
    """Draws the accuracy of a linear probe of each layer."""
    subject.classified()  # raises an error that says what is missing
    run = subject.trained.run
    found = probe_layers(*subject.merged, run.train, subject.batches(subject.sample(PROBE_ROWS)))
    from matplotlib.figure import Figure  # slow to import (1 s)

    figure = Figure(figsize=(6.4, 0.34 * len(found) + 1.2), layout="constrained")
    axes = figure.subplots()
    names, values = list(found), list(found.values())
    axes.barh(range(len(found)), values, color="tab:blue", height=0.6)
    for place, value in enumerate(values):
        axes.text(value, place, f" {value:.3f}", va="center", fontsize=8)
    axes.set_yticks(range(len(found)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.12), xlabel="accuracy of a linear probe")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
    return (
        f"From the input to the last layer: how well a linear classifier of {PROBE_ROWS:,} "
        "training rows at most tells the classes apart by what the layer gives, averaged over "
        "neighbouring places. It is tested on other rows."
    )
