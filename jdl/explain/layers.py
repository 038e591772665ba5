"""What the layers of a Flax Linen model give: feature maps, filters and Grad-CAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdl.explain.score import Score
from jdl.types import Array, Error


def layer_outputs(
    function: Callable[[], Any], added: Mapping[str, Array] | None = None
) -> tuple[Any, dict[str, Array]]:
    """What a function gives, and the output of each Linen layer that it calls, by path.

    The intermediate activations that Flax's `capture_intermediates` has, in the order in which they
    are computed: "Conv_0", "head/Dense_0". Whoever calls the model, and however deep, all are
    found; of a layer that is called again, the first output. Arrays in `added` are added to the
    outputs of these layers. Models other than Linen modules, and layers within `nn.scan` or
    `nn.remat`, show none.
    """
    found: dict[str, Array] = {}

    running: set[str] = set()  # a layer may call the class that it derives from

    def record(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        name = "/".join(context.module.path)
        if context.method_name != "__call__" or name in found or name in running:
            return next_call(*args, **kwargs)
        running.add(name)
        out = next_call(*args, **kwargs)
        running.remove(name)
        if isinstance(out, jax.Array):
            out = out + added[name].astype(out.dtype) if added and name in added else out
            found[name] = out
        return out

    with nn.intercept_methods(record):
        return function(), found


def shapes_in_order(
    function: Callable[..., Mapping[str, Array]], *arguments: Any
) -> dict[str, Any]:
    """The shapes of the dict that a function gives, in its order, by `jax.eval_shape`.

    JAX sorts the dicts that traced functions give.
    """
    names: list[str] = []

    def trace(*arguments: Any) -> Mapping[str, Array]:
        found = function(*arguments)
        names.extend(found)
        return found

    shapes = jax.eval_shape(trace, *arguments)
    return {name: shapes[name] for name in names}


def layers_of(score: Score) -> dict[str, Array]:
    """The outputs of the layers that a score is computed by: see `layer_outputs`."""
    return layer_outputs(lambda: score(score.batch["x"]))[1]


def map_layers(score: Score) -> dict[str, Any]:
    """The shapes of the layers that give feature maps (B, H, W, C) of more than one place.

    Of images alone, and of about their proportions: the heads of attention are no map.
    """
    x = score.batch["x"]
    if x.ndim != 4:
        return {}
    wide = x.shape[2] / x.shape[1]
    return {
        name: out
        for name, out in shapes_in_order(layers_of, score).items()
        if name
        and out.ndim == 4
        and out.shape[1] * out.shape[2] > 1
        and 2 / 3 < out.shape[2] / out.shape[1] / wide < 3 / 2
    }


def grad_cam(score: Score, layer: str | None = None) -> Array:
    """Grad-CAM (Selvaraju et al., 2017): where a CNN sees what raises the score, (B, h, w).

    relu(sum over channels of weight * feature map), where a channel's weight is the mean gradient
    of the score over its map. `layer` is the path of a Linen layer that gives maps (B, h, w, C); by
    default the last one. The map has that layer's resolution.

    A function such as `nn.relu(x)` is no layer: after a convolution, the maps are those before it,
    as of Captum's `LayerGradCam(model, model.conv)`. For those after it, name the layer that
    has both within (a block), or make a module of the ReLU. Raises `Error` for a model without
    such a layer.
    """
    layers = map_layers(score)
    if not layers:
        raise Error("No layer of the model gives feature maps (B, H, W, C), as a CNN's do.")
    layer = list(layers)[-1] if layer is None else layer
    if layer not in layers:
        raise Error(f"No layer {layer!r} gives feature maps; those are of {', '.join(layers)}.")
    zeros = jnp.zeros(layers[layer].shape, jnp.float32)

    def total(added: Array) -> tuple[Array, Array]:
        out, found = layer_outputs(lambda: score(score.batch["x"]), {layer: added})
        return out.sum(), found[layer]

    gradients, maps = jax.grad(total, has_aux=True)(zeros)
    weights = gradients.mean((1, 2), keepdims=True)
    return jax.nn.relu((weights * maps.astype(jnp.float32)).sum(-1))


def evenly(names: Sequence[str], most: int) -> list[str]:
    """At most so many of the names, evenly from the first to the last."""
    places = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return [names[place] for place in places]
