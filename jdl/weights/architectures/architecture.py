"""An architecture: a model of the sizes of a config, and the rules for the names in its file."""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn

from jdl.weights.rules import Rule


@dataclass(frozen=True)
class Architecture:
    """The model, the rules for the weights of its file, and which parts have none and stay fresh.

    `skip` is a regular expression of paths, such as that of a new head.
    """

    model: nn.Module
    rules: tuple[Rule, ...]
    skip: str = ""
