"""Weights out: a fine-tuned model as a folder of Hugging Face, which its libraries load."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from jdl.types import Error, Variables
from jdl.weights.files import Arrays, read_weights, write_safetensors
from jdl.weights.from_pretrained import architecture_of, read_config
from jdl.weights.load import arrays_by_path, folder_of
from jdl.weights.rules import to_jdl, to_theirs, used_rules

WEIGHTS = "model.safetensors"
BESIDE = ("*.json", "*.txt", "*.model")  # the configuration, and the tokenizer's files


def save_pretrained(variables: Variables, folder: Path | str, source: Path | str) -> None:
    """Writes a fine-tuned model as a new folder of Hugging Face.

    `variables` are those of a model that `from_pretrained(source)` made, without a new head:
    `jdl.restore(run).variables`, or `jdl.merge_lora(variables)` after LoRA. The folder gets the
    weights under their names there, and the configuration and the tokenizer of `source`. Weights
    that jdl does not have, because they have no effect, are those of `source`. Raises `Error` if
    the folder exists, or the variables are not all those of this model.
    """
    target, origin = Path(folder), folder_of(source)
    if target.exists():
        raise Error(f"{target} exists already: choose another folder, or delete it.")
    before, _ = read_weights(origin)
    rules = used_rules(before, architecture_of(read_config(origin)).rules)
    after = to_theirs(arrays_by_path(variables), rules)
    complete = to_theirs(to_jdl(before, rules), rules)
    if lacking := sorted(complete.keys() - after.keys()):
        raise Error(f"The variables lack {', '.join(lacking)} of {source}: give all of them.")
    left_out = [name for name in before if name not in after and not _is_copy(name, before)]
    weights = after | {name: before[name] for name in left_out}
    wrong = sorted(
        name for name, a in after.items() if name not in before or a.shape != before[name].shape
    )
    if wrong:
        raise Error(
            f"{', '.join(wrong)} of the variables are not weights of {source}: give those of "
            "jdl.weights.from_pretrained(source), without a new head."
        )
    target.mkdir(parents=True)
    write_safetensors(target / WEIGHTS, weights, {"format": "pt"})
    for pattern in BESIDE:
        for file in origin.glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copy(file, target / file.name)


def _is_copy(name: str, weights: Arrays) -> bool:
    """Whether a weight is another one once more, such as a head that is tied to the embeddings."""
    own = weights[name]
    return bool(own.any()) and any(
        other != name and array.shape == own.shape and np.array_equal(array, own)
        for other, array in weights.items()
    )
