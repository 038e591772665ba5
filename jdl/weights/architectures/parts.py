"""What the architectures of images share: rules for layers, and values of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jdl.errors import Error
from jdl.weights.rules import CONV, LINEAR, Rule

Config = Mapping[str, Any]


def value(config: Config, name: str, *supported: Any) -> Any:
    """The config's value of this name, by default the first of those that are supported.

    Raises `Error` for any other: another value would compute something else.
    """
    found = config.get(name, supported[0])
    if found not in supported:
        raise Error(
            f"The config has {name} {found!r}; of this architecture jdl has "
            f"{' or '.join(map(repr, supported))} alone."
        )
    return found


def outputs(config: Config, head: str) -> int | None:
    """The number of classes in a config of Hugging Face; None where its model has no head.

    `head` is the class of a model that has one, such as "ResNetForImageClassification".
    """
    (name,) = config.get("architectures") or (head,)
    if name == head:
        return len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)
    base = head.removesuffix("ForImageClassification") + "Model"
    value({"architectures": name}, "architectures", head, base)
    return None


def dense(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Weight and bias of a linear layer: kernel and bias of a dense one."""
    return (
        Rule(f"{theirs}.weight", f"params/{ours}/kernel", LINEAR),
        Rule(f"{theirs}.bias", f"params/{ours}/bias"),
    )


def norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Weight and bias of a layer norm: its scale and bias."""
    return (
        Rule(f"{theirs}.weight", f"params/{ours}/scale"),
        Rule(f"{theirs}.bias", f"params/{ours}/bias"),
    )


def conv_norm(conv: str, batch_norm: str, ours: str) -> tuple[Rule, ...]:
    """A convolution and the batch normalization after it: a `ConvNorm`.

    PyTorch's number of batches, of which an average without momentum would be made, is left out.
    """
    return (
        Rule(f"{conv}.weight", f"params/{ours}/Conv_0/kernel", CONV),
        *norm(batch_norm, f"{ours}/BatchNorm_0"),
        Rule(f"{batch_norm}.running_mean", f"batch_stats/{ours}/BatchNorm_0/mean"),
        Rule(f"{batch_norm}.running_var", f"batch_stats/{ours}/BatchNorm_0/var"),
        Rule(f"{batch_norm}.num_batches_tracked", None),
    )
