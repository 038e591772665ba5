"""Structured pruning: hidden units, channels and attention heads removed, for a smaller model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from jdl.models.bert import BERT
from jdl.models.cnn import CNN
from jdl.models.gpt import GPT
from jdl.models.mlp import MLP
from jdl.models.resnet import ResNet
from jdl.models.t5 import T5
from jdl.models.vit import ViT
from jdl.objectives.model_keywords import name_of
from jdl.objectives.pretrained_model import Weights
from jdl.types import Error, Variables
from jdl.weights.soups import arrays_of

Arrays = Mapping[str, np.ndarray]
HEADS = r"(params/.*(?:attention|cross))/query/kernel"
FEED_FORWARD = r"(params/.*feed_forward)/in/kernel"


def prune_units(
    model: Any, weights: Weights | Variables, share: float = 0.5, heads: float = 0.0
) -> tuple[Any, Variables]:
    """Structured pruning (Li et al., 2017): a model without its least units, and its variables.

    `share` is that of the hidden units of each layer of an `MLP`, of the channels of each
    convolution of a `CNN`, of those within each block of a `ResNet`, and of the hidden units of
    each feed-forward layer of a `GPT`, `BERT`, `ViT` or `T5`, of which `heads` is the share of the
    attention heads. At least one stays. A unit counts as much as the norm of the weights into it
    (of the scale and bias of its BatchNorm, as in network slimming; Liu et al., 2017) times that of
    the weights out of it; a head as that of its values times that of its output. What is 0 counts 0
    and goes first, without a change of the outputs where the activation of 0 is 0. Raises `Error`
    for other models, and for weights that do not fit.
    """
    for name, part in (("share", share), ("heads", heads)):
        if not 0 <= part < 1:
            raise Error(f"{name} is the part that is removed, from 0 to below 1, not {part}.")
    arrays = dict(arrays_of(weights))
    if heads and not isinstance(model, TRANSFORMERS):
        raise Error(f"{name_of(model)} has no attention heads: leave out heads={heads}.")
    try:
        small, groups = _smaller(model, arrays, share, heads)
        for units in groups:
            arrays = units.removed_from(arrays)
    except KeyError as error:
        raise Error(f"These weights are not those of {name_of(model)}: no {error}.") from None
    return small, unflatten_dict(arrays, sep="/")


@dataclass(frozen=True)
class Units:
    """The units of a layer: how many there are and stay, and the axes of arrays that they are on.

    `axes` has the axis by path; along it, `width` numbers beside each other are of one unit.
    `factors` are the arrays whose norms, multiplied, are a unit's importance. The axis of
    `flattened`, a path, has them once for each place of the feature map that it reads.
    """

    count: int
    stay: int
    axes: Mapping[str, int]
    factors: tuple[tuple[str, ...], ...]
    widths: Mapping[str, int]  # by path; 1 by default
    flattened: str | None = None

    def removed_from(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The arrays without the units that count least; of equal ones the last go."""
        kept = np.sort(np.argsort(-self.importance(arrays), kind="stable")[: self.stay])
        taken = {}
        for path, axis in self.axes.items():
            shape = list(arrays[path].shape)
            shape[axis] = shape[axis] * self.stay // self.count
            taken[path] = np.take(self._by_unit(path, arrays), kept, axis + 1).reshape(shape)
        return {**arrays, **taken}

    def importance(self, arrays: Arrays) -> np.ndarray:
        """The importance of each unit (count,), in float64."""
        product = np.ones(self.count)
        for paths in self.factors:
            squares = np.zeros(self.count)
            for path in paths:
                by_unit = np.moveaxis(self._by_unit(path, arrays), self.axes[path] + 1, 0)
                squares += (by_unit.reshape(self.count, -1).astype(np.float64) ** 2).sum(1)
            product *= np.sqrt(squares)
        return product

    def _by_unit(self, path: str, arrays: Arrays) -> np.ndarray:
        """The array, whose axis of units is three: what is before, units, numbers of a unit."""
        array, axis, width = arrays[path], self.axes[path], self.widths.get(path, 1)
        size, wanted = array.shape[axis], self.count * width
        if size % wanted if path == self.flattened else size != wanted:
            raise Error(
                f"{path} {array.shape} has no {self.count} units of {width} along axis {axis}: "
                "these weights are of another model."
            )
        before, after = array.shape[:axis], array.shape[axis + 1 :]
        return array.reshape(*before, -1, self.count, width, *after)


def _smaller(model: Any, arrays: Arrays, share: float, heads: float) -> tuple[Any, list[Units]]:
    """The smaller model, and the units that it has not all of."""
    if isinstance(model, MLP):
        hidden = [_stay(n, share) for n in model.hidden]
        return model.clone(hidden=hidden), list(_dense(arrays, "params", model.hidden, hidden))
    if isinstance(model, CNN):
        return _smaller_cnn(model, arrays, share)
    if isinstance(model, ResNet):
        inner = model.inner or [channels for channels, _ in model.stages]
        stay = [_stay(n, share) for n in inner]
        return model.clone(inner=tuple(stay)), list(_residual(model, arrays, inner, stay))
    if isinstance(model, TRANSFORMERS):
        return _smaller_transformer(model, arrays, share, heads)
    raise Error(
        f"prune_units takes MLP, CNN, ResNet, {', '.join(m.__name__ for m in TRANSFORMERS)}, and "
        f"not {name_of(model)}: what its layers share is known to its author alone."
    )


TRANSFORMERS = (GPT, BERT, ViT, T5)


def _stay(count: int, share: float) -> int:
    return max(1, count - int(share * count))


def _layer(
    arrays: Arrays, count: int, stay: int, layer: str, norm: str | None, following: str
) -> Units:
    """The outputs of a layer, perhaps normalized, which are the inputs of the following one."""
    kernel, last = f"{layer}/kernel", f"{following}/kernel"
    axes = {kernel: arrays[kernel].ndim - 1, last: arrays[last].ndim - 2}
    if (bias := f"{layer}/bias") in arrays:
        axes[bias] = 0
    into = (kernel, bias) if bias in arrays else (kernel,)
    if norm is not None:
        into = (f"params/{norm}/scale", f"params/{norm}/bias")
        statistics = (f"batch_stats/{norm}/mean", f"batch_stats/{norm}/var")
        axes |= dict.fromkeys((*into, *statistics), 0)
    flattened = last if arrays[kernel].ndim > arrays[last].ndim else None
    return Units(count, stay, axes, (into, (last,)), {}, flattened)


def _dense(arrays: Arrays, place: str, hidden: Any, stay: Any) -> Iterator[Units]:
    """The hidden units of an MLP."""
    for n, (count, kept) in enumerate(zip(hidden, stay, strict=True)):
        layer, following = f"{place}/Dense_{n}", f"{place}/Dense_{n + 1}"
        yield _layer(arrays, count, kept, layer, None, following)


def _smaller_cnn(model: CNN, arrays: Arrays, share: float) -> tuple[Any, list[Units]]:
    """Channels and hidden units; an encoder's last block stays, whose features are its output."""
    last = len(model.blocks) - (model.outputs is None)
    blocks = [
        (_stay(channels, share) if n < last else channels, convolutions)
        for n, (channels, convolutions) in enumerate(model.blocks)
    ]
    counts = [channels for channels, convolutions in model.blocks for _ in range(convolutions)]
    stay = [channels for channels, convolutions in blocks for _ in range(convolutions)]
    groups = []
    for n, (count, kept) in enumerate(zip(counts, stay, strict=True)):
        if count > kept:
            following = f"params/Conv_{n + 1}" if n + 1 < len(counts) else "params/head/Dense_0"
            norm = f"BatchNorm_{n}" if model.batch_norm else None
            groups.append(_layer(arrays, count, kept, f"params/Conv_{n}", norm, following))
    dense = [_stay(n, share) for n in model.dense]
    if model.outputs is not None:
        groups += _dense(arrays, "params/head", model.dense, dense)
    return model.clone(blocks=tuple(blocks), dense=tuple(dense)), groups


def _residual(model: ResNet, arrays: Arrays, inner: Any, stay: Any) -> Iterator[Units]:
    """The channels within residual blocks; those of the residual stream stay."""
    block = 0
    for (_, blocks), count, kept in zip(model.stages, inner, stay, strict=True):
        for _ in range(blocks):
            for n in range(2 if model.bottleneck else 1):
                place, following = (f"Block_{block}/ConvNorm_{n + m}" for m in range(2))
                norm, conv = f"{place}/BatchNorm_0", f"params/{place}/Conv_0"
                yield _layer(arrays, count, kept, conv, norm, f"params/{following}/Conv_0")
            block += 1


def _smaller_transformer(
    model: Any, arrays: Arrays, share: float, heads: float
) -> tuple[Any, list[Units]]:
    """Heads, with grouped queries those that share keys and values, and feed-forward units."""
    c = model.config
    head_width, kv = c.head_width or c.width // c.heads, c.kv_heads or c.heads
    hidden, queries = c.mlp_width or 4 * c.width, c.heads // kv
    stay, units = _stay(kv, heads), _stay(hidden, share)
    if stay < kv and c.relative_buckets:
        raise Error(
            "All layers share one table of relative positions, with a number for each head, and "
            "each layer would lose other heads: leave heads at 0."
        )
    groups = []
    for path in arrays:
        if found := re.fullmatch(HEADS, path):
            groups.append(_heads(arrays, found[1], kv, stay, head_width, queries))
        if found := re.fullmatch(FEED_FORWARD, path):
            groups.append(_feed_forward(arrays, found[1], hidden, units))
    if len(groups) < 2 * c.depth:
        raise Error(f"These weights are not those of {name_of(model)}: blocks are missing.")
    small = replace(
        c,
        heads=stay * queries,
        kv_heads=stay if c.kv_heads else None,
        head_width=head_width,
        mlp_width=units,
    )
    return model.clone(config=small), groups


def _heads(
    arrays: Arrays, place: str, count: int, stay: int, head_width: int, queries: int
) -> Units:
    axes, widths = {f"{place}/out/kernel": 0}, {f"{place}/out/kernel": queries * head_width}
    for name in ("query", "key", "value"):
        for path, axis in ((f"{place}/{name}/kernel", 1), (f"{place}/{name}/bias", 0)):
            if path in arrays:
                axes[path] = axis
                widths[path] = head_width * (queries if name == "query" else 1)
    values = tuple(path for path in axes if path.startswith(f"{place}/value/"))
    return Units(count, stay, axes, (values, (f"{place}/out/kernel",)), widths)


def _feed_forward(arrays: Arrays, place: str, count: int, stay: int) -> Units:
    units = _layer(arrays, count, stay, f"{place}/in", None, f"{place}/out")
    if f"{place}/gate/kernel" not in arrays:
        return units
    gate = _layer(arrays, count, stay, f"{place}/gate", None, f"{place}/out")
    return replace(
        units, axes={**units.axes, **gate.axes}, factors=(gate.factors[0], *units.factors)
    )
