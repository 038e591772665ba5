"""Models of Hugging Face with their weights, built from the config.json that lies beside them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from jdl.errors import Error
from jdl.weights.architectures.architecture import Architecture, Config, choose
from jdl.weights.architectures.bert import bert
from jdl.weights.architectures.distilbert import distilbert
from jdl.weights.architectures.gpt2 import gpt2
from jdl.weights.architectures.llama import llama, mistral, qwen2, qwen3
from jdl.weights.architectures.roberta import roberta

ARCHITECTURES: dict[str, Callable[..., Architecture]] = {
    "bert": bert,
    "distilbert": distilbert,
    "gpt2": gpt2,
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "roberta": roberta,
}
"""Architectures by the `model_type` of config.json."""


def architecture_of(config: Config, **changes: Any) -> Architecture:
    """The architecture that a config.json names, with changes such as `outputs=4`.

    Raises `Error` for what jdl does not have, and for changes that the architecture does not know.
    """
    build = choose(config, "model_type", ARCHITECTURES)
    known = list(inspect.signature(build).parameters)[1:]
    if unknown := changes.keys() - set(known):
        raise Error(
            f"A {config['model_type']} has no {', '.join(sorted(unknown))} to change; it has "
            f"{', '.join(known)}."
        )
    return build(config, **changes)
