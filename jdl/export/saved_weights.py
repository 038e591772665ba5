"""A fine-tuned run as a folder of Hugging Face: weights, configuration and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from jdl.data.tokenizers import SubwordTokenizer
from jdl.export.manifest import TOKENIZER, tokenizer_of
from jdl.inspect.restore import TrainedRun
from jdl.objectives.override import innermost, merge
from jdl.objectives.pretrained_model import PretrainedModel, record_loaded
from jdl.objectives.question_answering import ExtractiveQA
from jdl.store.record import read_record
from jdl.types import Error
from jdl.weights.from_pretrained import ARCHITECTURES
from jdl.weights.load import RUN, plain_variables
from jdl.weights.save_pretrained import save_pretrained

SAVED_WEIGHTS = "saved-weights"


def write_saved_weights(target: Path, folder: Path, trained: TrainedRun) -> None:
    """Writes the model of a run as a new folder of Hugging Face, as `save_pretrained` does.

    Adapters are merged, and quantized weights are written in full. Raises `Error` where the run's
    model is none that `from_pretrained` made, or has a new head that no class there has.
    """
    source = _source(folder)
    _, variables = merge(trained.objective, trained.variables)
    save_pretrained(plain_variables(variables), target, source, **_head(trained))
    tokenizer = tokenizer_of(trained.run)
    if isinstance(tokenizer, SubwordTokenizer) and not (target / TOKENIZER).exists():
        tokenizer.save(target / TOKENIZER)


def _head(trained: TrainedRun) -> dict[str, Any]:
    """What `save_pretrained` is told of the run's new head; nothing where it has none."""
    model, labels = _model(trained), trained.run.labels
    if model is None or not model.has_new_head:
        return {}
    spans = isinstance(innermost(trained.objective, trained.variables)[0], ExtractiveQA)
    named = len(labels) == model.model.outputs  # two classes may be one output
    return {"model": model, "labels": labels if named else (), "spans": spans}


def _model(trained: TrainedRun) -> PretrainedModel | None:
    """The run's pretrained model; None where a part of its model alone is pretrained."""
    with record_loaded() as loaded:
        jax.eval_shape(trained.objective.init, jax.random.key(0), trained.run.train.spec)
    return next(iter(loaded), None)


def _source(folder: Path) -> str:
    """Where the run's pretrained weights came from."""
    record = read_record(folder)
    sources = [one["source"] for one in record.get("pretrained") or []]
    if len(sources) != 1 or sources[0].startswith(RUN):
        raise Error(
            f"Saved weights have the names of the model that they came from, and {folder} began "
            f"with {' and '.join(sources) or 'random weights'}: one that began with "
            "jdl.weights.from_pretrained(source) can be saved. It knows the architectures "
            f"{', '.join(ARCHITECTURES)}, and those of timm."
        )
    return str(sources[0])
