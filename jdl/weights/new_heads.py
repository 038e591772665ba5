"""A new head on a pretrained backbone, as the class of Hugging Face that has such a head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from jdl.errors import Error
from jdl.weights.architectures.architecture import Architecture, Config
from jdl.weights.from_pretrained import architecture_of

PREFIXES = {
    "bert": "Bert",
    "camembert": "Camembert",
    "convnext": "ConvNext",
    "deit": "DeiT",
    "dinov2": "Dinov2",
    "distilbert": "DistilBert",
    "resnet": "ResNet",
    "roberta": "Roberta",
    "vit": "ViT",
    "xlm-roberta": "XLMRoberta",
}
"""What the names of classes begin with, by model_type."""

TASKS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForImageClassification",
    "ForImageClassificationWithTeacher",
)
SPANS = "ForQuestionAnswering"


def with_new_head(
    config: Config, model: Any, labels: Sequence[str], spans: bool = False
) -> tuple[Config, Architecture]:
    """The config.json of a model with a new head, and its architecture with the head's weights.

    `config` is that of the weights it began with, `model` the module with the new head; `labels`
    are the names of its outputs, if there are. With `spans` it is a head of extractive question
    answering. Raises `Error` where labels are not one for each output, or no class has such a head:
    BERTs whose head reads the mean of the tokens, say.
    """
    _check_labels(labels, model.outputs)
    labels = labels or [f"LABEL_{n}" for n in range(model.outputs)]
    names = {str(n): label for n, label in enumerate(labels)}
    tried = []
    for name, changes in _classes(config, names, spans):
        found = {**config, **changes}
        tried.append(name)
        try:
            architecture = architecture_of(found)
        except Error:  # the library has no such class of this architecture, or jdl has not
            continue
        if _form(architecture.model) == _form(model):
            return found, architecture
    kind = config.get("model_type", config.get("architecture"))
    raise Error(
        f"Hugging Face has no class of a {kind} with the new head of this model (tried: "
        f"{', '.join(tried) or 'none'}), so it cannot be saved in its layout: export the run "
        "to StableHLO, without --format. Heads of texts can be saved where they are of "
        'pool="first", or of pool=False for each token.'
    )


def _check_labels(labels: Sequence[str], outputs: int) -> None:
    if labels and len(labels) != outputs:
        raise Error(
            f"There are {len(labels):,} labels, and the model has {outputs:,} outputs: give one "
            "for each, or none."
        )
    if twice := sorted(label for label, count in Counter(labels).items() if count > 1):
        raise Error(f"The label {twice[0]!r} names several outputs: give each its own.")


def _classes(
    config: Config, names: dict[str, str], spans: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The classes that a new head may be of, each with what it changes in config.json."""
    if "architecture" in config:  # timm's, which has one class
        yield config["architecture"], {"num_classes": len(names)}
        return
    if (prefix := PREFIXES.get(config["model_type"])) is None:
        return
    changes = {"id2label": names, "label2id": {label: int(n) for n, label in names.items()}}
    for task in (SPANS,) if spans else TASKS:
        yield prefix + task, {"architectures": [prefix + task], **changes}


def _form(model: Any) -> dict[str, Any]:
    """What tells the heads of one architecture from one another.

    The sizes are those of one config.json, and the rates of dropout change no prediction.
    """
    given = {field.name: getattr(model, field.name) for field in fields(model)}
    return {name: v for name, v in given.items() if isinstance(v, int | str) or v is None}
