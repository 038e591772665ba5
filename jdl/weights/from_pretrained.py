"""Models of Hugging Face and timm with their weights, by the config.json that lies beside them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jdl.objectives.pretrained_model import DecoderTokens, PretrainedModel
from jdl.types import Error
from jdl.weights.architectures.architecture import Architecture, Config, choose
from jdl.weights.architectures.bert import bert
from jdl.weights.architectures.clip import clip
from jdl.weights.architectures.convnext import convnext
from jdl.weights.architectures.distilbert import distilbert
from jdl.weights.architectures.gpt2 import gpt2
from jdl.weights.architectures.llama import llama, mistral, qwen2, qwen3
from jdl.weights.architectures.resnet import resnet
from jdl.weights.architectures.roberta import roberta
from jdl.weights.architectures.t5 import mt5, t5
from jdl.weights.architectures.timm import timm
from jdl.weights.architectures.vit import deit, dinov2, vit
from jdl.weights.architectures.whisper import whisper
from jdl.weights.hub import TEXTS
from jdl.weights.load import folder_of, load
from jdl.weights.rules import to_jdl

ARCHITECTURES: dict[str, Callable[..., Architecture]] = {
    "bert": bert,
    "camembert": roberta,
    "clip": clip,
    "convnext": convnext,
    "deit": deit,
    "dinov2": dinov2,
    "distilbert": distilbert,
    "gpt2": gpt2,
    "llama": llama,
    "mistral": mistral,
    "mt5": mt5,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "resnet": resnet,
    "roberta": roberta,
    "t5": t5,
    "vit": vit,
    "whisper": whisper,
    "xlm-roberta": roberta,
}
"""Architectures by the `model_type` of config.json."""

GENERATION = "generation_config.json"


def from_pretrained(source: str | Path, skip: str | None = None, **changes: Any) -> PretrainedModel:
    """A pretrained model of Hugging Face or timm: built from its config.json, with its weights.

    `source` is a folder, or "hf:organization/model@revision" of the hub. `changes` are arguments of
    the architecture, such as `outputs=4` for a new head, or `dropout=0.2`; the guide lists them. A
    new head stays fresh, and what `skip` finds, as in `jdl.pretrained`. Raises `Error` for an
    architecture, or a form of it, that jdl does not have.
    """
    folder = folder_of(source, TEXTS)
    config = read_config(folder)
    architecture = architecture_of(config, **changes)
    weights = load(source).map(partial(to_jdl, rules=architecture.rules))
    tokens = _decoder_tokens(folder, config) if config.get("is_encoder_decoder") else None
    return PretrainedModel(architecture.model, weights, {}, skip, architecture.skip or None, tokens)


def architecture_of(config: Config, **changes: Any) -> Architecture:
    """The architecture that a config.json names, of Hugging Face or timm, with `outputs=4`, say.

    Raises `Error` for what jdl does not have, and for changes that the architecture does not know.
    """
    timms = "architecture" in config
    build = timm(config) if timms else choose(config, "model_type", ARCHITECTURES)
    known = list(inspect.signature(build).parameters)[1:]
    if unknown := changes.keys() - set(known):
        raise Error(
            f"A {build.__name__} has no {', '.join(sorted(unknown))} to change; it has "
            f"{', '.join(known)}."
        )
    return build(config, **changes)


def _decoder_tokens(folder: Path, config: Config) -> DecoderTokens:
    """The tokens of generation_config.json, where there is one, or else of config.json."""
    own = {}
    if (folder / GENERATION).is_file():
        own = {name: v for name, v in read_config(folder, GENERATION).items() if v is not None}
    both = {**config, **own}
    names = "decoder_start_token_id", "eos_token_id"
    start, eos = (both.get(name) for name in names)
    if isinstance(eos, list):  # of several none is the one that texts of y end with
        eos = eos[0] if len(eos) == 1 else None
    return DecoderTokens(start, eos)


def read_config(folder: Path, name: str = "config.json") -> Config:
    """The config.json of a folder; raises `Error` if it is missing or cannot be read."""
    path = folder / name
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise Error(
            f"There is no {path}: from_pretrained needs a folder of Hugging Face, with config.json "
            "beside the weights. Other weights: jdl.pretrained(model, jdl.weights.load(source))."
        ) from None
    except (OSError, ValueError) as error:
        raise Error(f"{path} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise Error(f"{path} must hold an object, not a {type(config).__name__}.")
    return config
