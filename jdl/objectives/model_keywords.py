"""What a model's methods ask for by name, and how they are called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jdl.layers.frozen_batch_norm import IN_EVALUATION, IN_TRAINING
from jdl.types import Array, Batch, Error

LENGTHS = ("lengths", "seq_lengths")
COLUMNS = (
    "candidates",
    "edge_features",
    "segment",
    "token_type",
    "width",
)  # a model gets them by name


def keywords(
    model: Any,
    method: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    train: bool,
    batch: Batch,
    mask: Array | None = None,
) -> dict[str, Any]:
    """What a model's method asks for besides its inputs, by the names that Flax's users give it.

    In training `train`, `training`, `is_training` and `is_train` are true, `deterministic`,
    `use_running_average`, `inference` and `eval` false. `mask` is that of the real rows (B,) or
    time steps (B, T), not an attention mask; `lengths` and `seq_lengths` are the column `length`;
    `candidates` (recommendation), `edge_features` (graphs), `segment` (several documents in a row),
    `token_type` (pairs of texts) and `width` (images that are padded on the right) are the columns
    of these names. A method that does not name one of them, or has it as an input, does not get it.
    Raises `Error` where the method needs more.
    """
    known: dict[str, Any] = {
        **dict.fromkeys(IN_TRAINING, train),
        **dict.fromkeys(IN_EVALUATION, not train),
        "mask": mask,
    }
    if "length" in batch:
        known |= dict.fromkeys(LENGTHS, batch["length"])
    known |= {name: batch[name] for name in COLUMNS if name in batch}
    signature = signature_of(model, method)
    try:
        taken = signature.bind_partial(*args, **kwargs).arguments
        names = [n for n in signature.parameters if n in known and n not in taken]
        given = {name: known[name] for name in names}
        signature.bind(*args, **kwargs, **given)
    except TypeError as error:
        count = len(args) + len(kwargs)
        raise Error(
            f"{name_of(model)} cannot be called as this objective and these data call its "
            f"{method}{signature}, with {count} {'input' if count == 1 else 'inputs'}: {error}. "
            f"By their names it gets {', '.join((*IN_TRAINING, *IN_EVALUATION))}, mask and, where "
            f"the data have a column length, {' and '.join(LENGTHS)}; apply of jdl.Model also key. "
            "Give any other argument a default, or name the columns that it needs: "
            "jdl.adapt_model(model, inputs=...)."
        ) from error
    return given


def unknown_flags(
    model: Any, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, bool]:
    """Arguments that are True or False by default and that jdl does not set, with the other value.

    One of them may be the model's own word for `train`. Empty where the method has an argument that
    jdl does set to say whether the model trains: the others then mean something else.
    """
    if is_told(model, method):
        return {}
    signature = signature_of(model, method)
    taken = {*signature.bind_partial(*args, **kwargs).arguments, "decode"}
    return {
        name: not parameter.default
        for name, parameter in signature.parameters.items()
        if isinstance(parameter.default, bool) and name not in taken
    }


def is_told(model: Any, method: str = "__call__") -> bool:
    """Whether a method has an argument by which jdl says whether it trains."""
    names = signature_of(model, method).parameters.keys()
    return not names.isdisjoint((*IN_TRAINING, *IN_EVALUATION))


def check_model(model: Any) -> None:
    """Raises `Error` for what is no model: a class, an NNX module itself, a bare pair."""
    is_class = isinstance(model, type)
    if not is_class and hasattr(model, "init") and hasattr(model, "apply"):
        return
    kind = model if is_class else type(model)
    name, kinds = kind.__name__, "a Linen module, jdl.nnx(...) or jdl.Model(init, apply)"
    if any(parent.__module__.startswith("flax.nnx") for parent in kind.__mro__):
        raise Error(
            f"{name} is an NNX module: give jdl.nnx(lambda rngs: {name}(..., rngs=rngs)), which "
            "makes it from its random streams."
        )
    if is_class:
        raise Error(f"The model is the class {name}: give an instance, or {kinds}.")
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        raise Error("The model is a pair of functions: give jdl.Model(init, apply).")
    raise Error(f"{name} is no model, without init and apply: give {kinds}.")


def signature_of(model: Any, method: str) -> inspect.Signature:
    """How a method is called after its variables; a model that is no Linen module may say so."""
    check_model(model)
    if hasattr(model, "signature") and not isinstance(model, nn.Module):
        signature = model.signature(method)
    else:
        signature = inspect.signature(getattr(type(model), method))
        _, *parameters = signature.parameters.values()  # without self
        if isinstance(model, nn.Sequential):  # whose ** are for its first layer
            parameters = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        signature = signature.replace(parameters=parameters)
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        raise Error(
            f"{method} of {name_of(model)} takes any keyword (**), so it cannot be known which "
            "ones it needs: name those that it passes on, such as train or deterministic."
        )
    return signature


def name_of(model: Any) -> str:
    """The model's name in messages: that of its class, or what it says itself."""
    plain = type(model).__str__ is object.__str__ or isinstance(model, nn.Module)
    return type(model).__name__ if plain else str(model)
