"""The architectures of timm by their names, such as "resnet50"."""

from __future__ import annotations

import re

from jdl.errors import Error
from jdl.weights.architectures.architecture import Architecture
from jdl.weights.architectures.parts import Config
from jdl.weights.architectures.resnet import timm_resnet

NAMES = {  # a regular expression of the name, and what it is read by
    r"resnet(18|34|50|101|152)": timm_resnet,
}


def timm(config: Config) -> Architecture:
    """The architecture that timm's config.json names, without the training's tag after a dot.

    Files of torchvision have no config; for those of its ResNets, whose names are the same, give
    `{"architecture": "resnet50", "num_classes": 1000}`. Raises `Error` for other names.
    """
    name = config["architecture"].partition(".")[0]
    for pattern, architecture in NAMES.items():
        if re.fullmatch(pattern, name):
            return architecture({"num_classes": 1000, **config, "architecture": name})
    raise Error(
        f"jdl has no timm architecture {config['architecture']!r}; the names that it has are "
        f"{', '.join(NAMES)}."
    )
