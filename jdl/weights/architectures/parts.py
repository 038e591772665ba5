"""What the architectures of images share: the head of classes, and convolutions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn

from jdl.errors import Error
from jdl.weights.architectures.architecture import Architecture, Config, head, norm, value
from jdl.weights.rules import CONV, Layout, Rule

# A convolution of 1 x 1, which is a dense layer here.
POINTWISE = Layout(lambda x: x[:, :, 0, 0].T, lambda kernel: kernel.T[:, :, None, None])


def classes(config: Config, outputs: int | None, with_head: str, without: str) -> int | None:
    """The outputs of a new head, or the classes of that in the file; None where there is none.

    The names are those of the library's classes with and without a head.
    """
    has_head = head(config, {with_head: True, without: False})
    if outputs is not None or not has_head:
        return outputs
    return len(config["id2label"]) if "id2label" in config else 2  # which it leaves out


def timm_name(config: Config, pattern: str) -> tuple[str, ...]:
    """The groups of a regular expression in timm's `architecture`; an unmatched one is empty.

    Raises `Error` where it does not match.
    """
    name = value(config, "architecture")
    if not (match := re.fullmatch(pattern, name)):
        raise Error(f"config.json has architecture={name!r}, which is none of {pattern}.")
    return match.groups("")


def timm_config(config: Config, **arguments: Any) -> Config:
    """A config of timm with the model's arguments: its `model_args`, and else these.

    Raises `Error` for `model_args` that are not among them.
    """
    given = config.get("model_args", {})
    name = value(config, "architecture")
    if unknown := set(given) - set(arguments):
        raise Error(
            f"config.json has model_args {', '.join(sorted(unknown))}; jdl's {name} knows "
            f"{', '.join(arguments) or 'none'} alone."
        )
    return {**config, "model_type": name, **arguments, **given}


def timm_classes(config: Config, outputs: int | None) -> int | None:
    """The outputs of a new head, or the classes of timm's; None where its file has no head."""
    return (value(config, "num_classes") or None) if outputs is None else outputs


def with_head(
    model: nn.Module, backbone: Sequence[Rule], heads: Sequence[Rule], new: bool
) -> Architecture:
    """An architecture whose heads are those of the file, or `new`: then these are left out."""
    if not new:
        return Architecture(model, (*backbone, *heads))
    left_out = (replace(rule, ours=None) for rule in heads)
    return Architecture(model, (*backbone, *left_out), "^params/(distillation_)?head/")


def conv_norm(conv: str, batch_norm: str, ours: str) -> tuple[Rule, ...]:
    """The rules of a convolution and the batch normalization after it: a `ConvNorm`.

    PyTorch's number of batches, which an average without momentum needs, is left out.
    """
    return (
        Rule(f"{conv}.weight", f"params/{ours}/Conv_0/kernel", CONV),
        *norm(batch_norm, f"params/{ours}/BatchNorm_0"),
        Rule(f"{batch_norm}.running_mean", f"batch_stats/{ours}/BatchNorm_0/mean"),
        Rule(f"{batch_norm}.running_var", f"batch_stats/{ours}/BatchNorm_0/var"),
        Rule(f"{batch_norm}.num_batches_tracked", None),
    )
