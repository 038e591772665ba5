"""Models of Hugging Face's hub: their files, from its cache or by download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jdl.errors import Error, first_line

TEXTS = ("*.json", "*.txt", "*.model")  # the configuration and the tokenizer
WEIGHTS = ("model*.safetensors", *TEXTS)  # and no second copy in another layout
PREFIX = "hf:"


def hub_folder(name: str, patterns: Sequence[str] = WEIGHTS) -> Path:
    """The folder of a model "organization/model" or "organization/model@revision".

    It is taken from the cache of `huggingface_hub`, into which missing files of these patterns are
    downloaded: by default weights as safetensors, configuration and tokenizer. A revision is a
    commit, a tag or a branch, by default "main". Raises `Error` where the files are neither there
    nor can be had.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError:
        raise Error("hf: needs huggingface_hub: pip install huggingface_hub.") from None
    repository, _, revision = name.partition("@")
    try:
        found = huggingface_hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=list(patterns)
        )
    except (OSError, ValueError, RuntimeError) as error:  # no network, no such model, ...
        raise Error(
            f"hf:{name} is not in the cache {huggingface_hub.constants.HF_HUB_CACHE} and cannot be "
            f"downloaded ({first_line(error)}). Check the name, log in "
            "where the model asks for it (hf auth login), or, without a network, clone the "
            "repository elsewhere, copy its folder here, and give the folder's path."
        ) from error
    return Path(found)
