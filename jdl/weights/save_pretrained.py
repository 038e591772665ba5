"""Weights out: a fine-tuned model as a folder of Hugging Face, which its libraries load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jdl.objectives.pretrained_model import PretrainedModel
from jdl.types import Error, Variables
from jdl.weights.files import Arrays, read_weights, write_safetensors
from jdl.weights.from_pretrained import architecture_of, read_config
from jdl.weights.load import arrays_by_path, folder_of
from jdl.weights.new_heads import with_new_head
from jdl.weights.rules import Rule, finder, to_jdl, to_theirs, used_rules

WEIGHTS, CONFIG = "model.safetensors", "config.json"
BESIDE = ("*.json", "*.txt", "*.model")  # the configuration, and the tokenizer's files


def save_pretrained(
    variables: Variables,
    folder: Path | str,
    source: Path | str,
    model: PretrainedModel | None = None,
    labels: Sequence[str] = (),
    spans: bool = False,
) -> None:
    """Writes a fine-tuned model as a new folder of Hugging Face.

    `variables` are those of a model that `from_pretrained(source)` made:
    `jdl.restore(run).variables`, or `jdl.merge_lora(variables)` after LoRA. The folder gets the
    weights under their names there, and the configuration and the tokenizer of `source`. Weights
    that jdl does not have, because they have no effect, are those of `source`.

    With a new head, `from_pretrained(source, outputs=4)`, give that `model` too: the folder is of
    the class that has such a head, as BertForSequenceClassification, and config.json gets the
    `labels` of its outputs. With `spans` it is a head of extractive question answering, whose
    outputs are start and end logits. Raises `Error` if the folder exists, the variables are not all
    those of this model, no class has its head, labels are not one for each output, or labels or
    spans are given without a new head.
    """
    target, origin = Path(folder), folder_of(source)
    if target.exists():
        raise Error(f"{target} exists already: choose another folder, or delete it.")
    before, _ = read_weights(origin)
    config = read_config(origin)
    if model is not None and model.has_new_head:
        changed, architecture = with_new_head(config, model.model, labels, spans)
        weights = _with_new_head(arrays_by_path(variables), before, architecture.rules, str(source))
    elif labels or spans:
        raise Error(
            "labels and spans are of a new head, and there is none: leave them out, or give the "
            "model that jdl.weights.from_pretrained(source, outputs=...) made."
        )
    else:
        changed, rules = None, used_rules(before, architecture_of(config).rules)
        weights = _as_before(arrays_by_path(variables), before, rules, str(source))
    target.mkdir(parents=True)
    write_safetensors(target / WEIGHTS, weights, {"format": "pt"})
    for pattern in BESIDE:
        for file in origin.glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copy(file, target / file.name)
    if changed is not None:
        text = json.dumps(changed, indent=2, ensure_ascii=False)
        (target / CONFIG).write_text(text + "\n", "utf-8")


def _as_before(arrays: Arrays, before: Arrays, rules: Sequence[Rule], source: str) -> Arrays:
    """The weights of a model whose parts are all those of its source."""
    after = to_theirs(arrays, rules)
    complete = to_theirs(to_jdl(before, rules), rules)
    if lacking := sorted(complete.keys() - after.keys()):
        raise Error(f"The variables lack {', '.join(lacking)} of {source}: give all of them.")
    wrong = sorted(
        name for name, a in after.items() if name not in before or a.shape != before[name].shape
    )
    if wrong:
        raise Error(
            f"{', '.join(wrong)} of the variables are not weights of {source}: give those of "
            "jdl.weights.from_pretrained(source), and with a new head that model too."
        )
    left_out = [name for name in before if name not in after and not _is_copy(name, before)]
    return after | {name: before[name] for name in left_out}


def _with_new_head(arrays: Arrays, before: Arrays, rules: Sequence[Rule], source: str) -> Arrays:
    """The weights of a model with a new head, all with the names of its class.

    A file of the backbone alone has names without a prefix. Of what has no effect, that of modules
    which have other weights is kept: biases of keys, but no old head.
    """
    after, find = to_theirs(arrays, rules), finder(rules)
    places = {place for name in before for place in find(name)[1]}
    if lacking := sorted(places - arrays.keys()):
        raise Error(f"The variables lack {', '.join(lacking)} of {source}: give all of them.")
    modules = {name.rpartition(".")[0] for name in after}
    prefixes = ["", *sorted({name.partition(".")[0] + "." for name in after})]
    names = {prefix + name: name for name in before if not find(name)[1] for prefix in prefixes}
    kept = {full: name for full, name in names.items() if full.rpartition(".")[0] in modules}
    return {full: before[name] for full, name in kept.items()} | dict(after)


def _is_copy(name: str, weights: Arrays) -> bool:
    """Whether a weight is another one once more, such as a head that is tied to the embeddings."""
    own = weights[name]
    return bool(own.any()) and any(
        other != name and array.shape == own.shape and np.array_equal(array, own)
        for other, array in weights.items()
    )
