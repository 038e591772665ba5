"""Attention maps of transformers, and attention rollout."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdl.explain.canvas import grid, pixel_edges, save, show_row, title_layer
from jdl.explain.layers import evenly, shapes_in_order
from jdl.explain.subject import Subject
from jdl.figures.rows import is_image
from jdl.layers import attention_weights
from jdl.models.transformer import MultiHeadAttention
from jdl.paths import by_path
from jdl.types import Array, Batch, Error, Predicts, Variables

LAYERS = 6  # maps that are shown, of a row
MOST_TOKENS = 40  # that are named beside a map


def attention_maps(function: Callable[[], Any]) -> dict[str, Array]:
    """The attention weights (B, heads, T, S) of each layer of attention in a call, by path.

    Of layers of jdl, and of Flax's `MultiHeadDotProductAttention` with its own attention function:
    they are computed again from the queries and keys. Layers within `nn.scan` or `nn.remat` show
    none.
    """
    found: dict[str, Array] = {}
    inputs: dict[tuple[str, ...], Array] = {}

    def record(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module, path = context.module, context.module.path
        out = next_call(*args, **kwargs)
        if isinstance(module, MultiHeadAttention) and context.method_name == "attend":
            q, k, _, visible, causal, bias, *hidden = args
            c = module.config
            found["/".join(path)] = attention_weights(
                q, k, visible, causal, bias, c.attention_scale, c.attention_cap, *hidden
            )
        elif isinstance(module, nn.MultiHeadDotProductAttention):
            q, k = (inputs.get((*path, f"{n}_ln"), inputs[*path, n]) for n in ("query", "key"))
            found["/".join(path)] = nn.dot_product_attention_weights(
                q, k, mask=kwargs.get("mask"), dtype=jnp.float32, deterministic=True
            )
        elif path and path[-1] in ("query", "key", "query_ln", "key_ln"):
            inputs[path] = out
        return out

    with nn.intercept_methods(record):
        function()
    return found


def attention_rollout(maps: Sequence[Array]) -> Array:
    """Attention rollout (Abnar and Zuidema, 2020): what of the inputs each output position has.

    The product (B, T, T) of the layers' attention weights (B, heads, T, T), from the first layer to
    the last: each the mean of its heads, and of that and the identity, for the residual
    connections. Its rows sum to 1. What the layers do besides attention is left out.
    """
    if not maps or any(one.ndim != 4 or one.shape[2] != one.shape[3] for one in maps):
        raise Error("Attention rollout needs the weights (B, heads, T, T) of self-attention.")
    eye = jnp.eye(maps[0].shape[-1], dtype=jnp.float32)[None]
    rolled = jnp.broadcast_to(eye, (len(maps[0]), *eye.shape[1:]))
    for one in maps:
        rolled = (0.5 * one.astype(jnp.float32).mean(1) + 0.5 * eye) @ rolled
    return rolled


def draw_attention(subject: Subject, path: Path) -> str:
    """Draws attention of each layer, the mean of its heads, and the rollout, for each row."""
    objective, variables = subject.merged

    def call(variables: Variables, batch: Batch) -> Any:
        if isinstance(objective, Predicts):
            return objective.predict(variables, batch)
        return objective.loss(variables, batch, jax.random.key(0), False)  # of a language model

    def of_batch(variables: Variables, batch: Batch) -> dict[str, Array]:
        return attention_maps(lambda: call(variables, batch))

    order = list(shapes_in_order(of_batch, variables, subject.batch))
    if not order:
        raise Error(
            "No attention layer of jdl or of Flax was recorded: the model has none, or its layers "
            "are recomputed (remat), and those are not recorded: give it remat=False."
        )
    found = jax.jit(of_batch)(variables, subject.batch)
    maps = {name: found[name] for name in order}
    rollout = None
    if is_stack(maps, by_path(variables["params"])):
        rollout = np.asarray(attention_rollout(list(maps.values())))
    x = subject.batch.get("x")
    if rollout is not None and x is not None and is_image(x):
        patches = patch_grid(rollout.shape[-1], *x.shape[1:3])
        if patches is not None:
            return _draw_on_images(subject, maps, rollout, patches, path)
    return _draw_matrices(subject, maps, rollout, path)


def is_stack(maps: Mapping[str, Array], params: Iterable[str] = ()) -> bool:
    """Whether layers of attention read each other, one after the other, as far as names tell.

    Self-attention of one length, whose paths differ in one number, that of the block. Layers of
    other names stand side by side, such as the encoders of images and of texts; and cross-attention
    reads something else. Nor are they one where the paths of the parameters have a `RecurrentMixer`
    between them, which reads other positions too.
    """
    if any("/recurrence/" in path for path in params):
        return False
    shapes = {one.shape[2:] for one in maps.values()}
    if len(shapes) > 1 or any(t != s for t, s in shapes) or any("cross" in name for name in maps):
        return False
    if len({re.sub(r"\d+", "", name) for name in maps}) > 1:
        return False
    numbers = zip(*(re.findall(r"\d+", name) for name in maps), strict=True)
    return sum(len(set(column)) > 1 for column in numbers) <= 1


def patch_grid(tokens: int, height: int, width: int) -> tuple[int, int, int] | None:
    """The rows and columns of patches of an image, and the tokens before them; None if it has none.

    At most two tokens stand before the patches, which are squares.
    """
    for before in range(3):
        for rows in range(1, tokens + 1):
            columns, rest = divmod(tokens - before, rows)
            if not rest and columns and height % rows == 0 and height * columns == width * rows:
                return rows, columns, before
    return None


def _draw_on_images(
    subject: Subject,
    maps: dict[str, Array],
    rollout: np.ndarray,
    patches: tuple[int, int, int],
    path: Path,
) -> str:
    """The attention that patches get: from the first token if one stands before them, or all."""
    rows, columns, before = patches
    images, titles = subject.images(subject.rows), subject.titles()
    names = evenly(list(maps), LAYERS)
    shown = {name: np.asarray(maps[name]).mean(1) for name in names} | {"rollout": rollout}
    figure, places = grid(len(images), 1 + len(shown), 1.5, 1.45, 1.4)
    for n, image in enumerate(images):
        show_row(places[n, 0], image, titles[n])
        for axes, weights in zip(places[n, 1:], shown.values(), strict=True):
            given = weights[n, 0] if before else weights[n].mean(0)
            given = given[before:].reshape(rows, columns)
            axes.imshow(given, cmap="viridis", extent=pixel_edges(image), interpolation="nearest")
    for axes, name in zip(places[0, 1:], shown, strict=True):
        title_layer(axes, name)
    save(figure, path)
    who = "the first token gives" if before else "all patches give, on average,"
    return (
        f"What {who} to each patch in each layer, the mean of its heads, and the rollout over all "
        "layers (Abnar and Zuidema, 2020). Light is much. Attention says where a layer reads, not "
        "what it makes of it: compare the attributions."
    )


def _draw_matrices(
    subject: Subject, maps: dict[str, Array], rollout: np.ndarray | None, path: Path
) -> str:
    """The first row's matrices of each layer, and the rollout."""
    shown = {name: np.asarray(maps[name][0]).mean(0) for name in evenly(list(maps), LAYERS)}
    if rollout is not None:
        shown["rollout"] = rollout[0]
    words, length = _words(subject)
    from matplotlib.figure import Figure  # slow to import (1 s)

    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(4.4 * columns, 4.4 * lines), layout="constrained")
    places = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in places[len(shown) :]:
        axes.set_axis_off()
    for axes, (name, weights) in zip(places, shown.items(), strict=False):
        square = weights.shape[0] == weights.shape[1]
        seen = weights[:length, :length] if square else weights
        axes.imshow(seen, cmap="viridis", interpolation="nearest", aspect="auto")
        axes.set_title(name, fontsize=8)
        axes.set(xlabel="is read", ylabel="reads")
        if square and words:
            axes.set_xticks(range(len(words)), words, rotation=90, fontsize=6)
            axes.set_yticks(range(len(words)), words, fontsize=6)
    save(figure, path)
    return (
        f"Of row {subject.rows[0]}: what each position (from top to bottom) takes of each other, "
        "in each layer, the mean of its heads; and the rollout over all layers (Abnar and "
        "Zuidema, 2020) where there is one stack of layers, without recurrent ones between them, "
        "which read other positions too. Light is much."
    )


def _words(subject: Subject) -> tuple[list[str], int | None]:
    """The tokens of the first row as text, if there are few, and how many are real."""
    batch, tokenizer = subject.batch, subject.trained.run.tokenizer
    length = int(batch["length"][0]) if "length" in batch else None
    x = np.asarray(batch["x"][0])[:length] if "x" in batch else np.zeros(0)
    if tokenizer is None or x.ndim != 1 or x.dtype.kind not in "iu" or len(x) > MOST_TOKENS:
        return [], length
    return [repr(tokenizer.decode(x[n : n + 1]))[1:-1] for n in range(len(x))], length
