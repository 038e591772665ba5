"""The architectures of timm, and those of torchvision with the same names of weights."""

from __future__ import annotations

import re
from collections.abc import Callable

from jdl.errors import Error
from jdl.weights.architectures.architecture import Architecture, Config
from jdl.weights.architectures.convnext import CONVNEXT_NAME, timm_convnext
from jdl.weights.architectures.efficientnet import (
    EFFICIENTNET_NAME,
    MOBILENET_NAME,
    MOBILENET_V3_NAME,
    timm_efficientnet,
    timm_mobilenet_v2,
    timm_mobilenet_v3,
)
from jdl.weights.architectures.resnet import RESNET_NAME, timm_resnet
from jdl.weights.architectures.timm_vit import VIT_NAME, timm_vit

TIMM: dict[str, Callable[..., Architecture]] = {
    RESNET_NAME: timm_resnet,
    VIT_NAME: timm_vit,
    CONVNEXT_NAME: timm_convnext,
    EFFICIENTNET_NAME: timm_efficientnet,
    MOBILENET_NAME: timm_mobilenet_v2,
    MOBILENET_V3_NAME: timm_mobilenet_v3,
}
"""Architectures by a regular expression of timm's name."""


def timm(config: Config) -> Callable[..., Architecture]:
    """What reads timm's config.json: the function for its `architecture`, such as "resnet50".

    Files of torchvision have no config.json. For those of its ResNets, write one:
    `{"architecture": "resnet50", "num_classes": 1000}`. Raises `Error` for other names.
    """
    for pattern, build in TIMM.items():
        if re.fullmatch(pattern, config["architecture"]):
            return build
    raise Error(
        f"config.json has architecture={config['architecture']!r}; of timm jdl has "
        f"{', '.join(TIMM)} alone."
    )
