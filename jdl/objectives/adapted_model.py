"""Adapted models: any columns of the batch as inputs, and any part of the output."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jdl.objectives.model_keywords import name_of, signature_of
from jdl.types import Batch, Error

Inputs = tuple[str, ...] | Mapping[str, str] | Callable[[Batch], tuple[Any, Any]]
"""Columns as positional arguments, as arguments by name, or a function of the batch."""
Outputs = str | int | Callable[[Any], Any]
"""A part of a model's output: by name, by place, or a function of it."""


def adapt_model(
    model: Any, inputs: Inputs | None = None, outputs: Outputs | None = None
) -> AdaptedModel:
    """A model of several inputs or outputs, for objectives that take one array and give one.

    `inputs=("image", "question")` names the columns of the batch that are the model's positional
    arguments, in place of x; `inputs={"pixels": "image"}` has the model's argument first, then its
    column; `inputs=f` is for all others, with `f(batch) -> (args, kwargs)`. `outputs="logits"`
    picks an entry of a dict or a field, `outputs=0` that of a tuple, `outputs=f` anything.
    The model may be a Linen module, `jdl.nnx(...)` or `jdl.Model(...)`.
    """
    if isinstance(inputs, str):
        raise Error(
            f"inputs of adapt_model are several columns: write inputs=({inputs!r},), with a comma."
        )
    if inputs is not None and not callable(inputs) and not inputs:
        raise Error("inputs of adapt_model name no column: name one, or leave inputs out.")
    if isinstance(model, AdaptedModel):
        before, model = model, model.model
        if None not in (inputs, before.inputs) or None not in (outputs, before.outputs):
            raise Error("This model's inputs or outputs are adapted already: adapt them once.")
        inputs = before.inputs if inputs is None else inputs
        outputs = before.outputs if outputs is None else outputs
    return AdaptedModel(model, inputs, outputs)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Arguments:
    """The arguments of an adapted model's call, by place and by name."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, eq=False)
class AdaptedModel:
    """A model with inputs and outputs of one's choice; see `adapt_model`."""

    model: Any
    inputs: Inputs | None
    outputs: Outputs | None

    def __str__(self) -> str:
        return f"adapt_model({name_of(self.model)})"

    @property
    def max_length(self) -> int | None:
        """The most tokens of a language model's KV cache."""
        return getattr(self.model, "max_length", None)

    @property
    def decoder_tokens(self) -> Any:
        """The tokens that a pretrained encoder-decoder begins and ends with, where known."""
        return getattr(self.model, "decoder_tokens", None)

    def init(self, rngs: Mapping[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The model's initial variables."""
        return dict(self.model.init(rngs, *args, **kwargs))

    def apply(
        self,
        variables: Mapping[str, Any],
        *args: Any,
        mutable: Any = False,
        method: str = "__call__",
        **kwargs: Any,
    ) -> Any:
        """The picked output; with `mutable`, also the collections of these names after it."""
        result = self.model.apply(variables, *args, mutable=mutable, method=method, **kwargs)
        if self.outputs is None:
            return result
        if method != "__call__":
            raise Error(
                f"outputs of adapt_model are of the model's call, and this objective calls its "
                f"method {method!r}: leave outputs out, and let the method return what it needs."
            )
        if mutable is False:
            return self._pick(result)
        out, changed = result
        return self._pick(out), changed

    def signature(self, method: str) -> inspect.Signature:
        """How the model is called."""
        return signature_of(self.model, method)

    def arguments(self, batch: Batch) -> Arguments:
        """The arguments of the model's call, from the columns of a batch."""
        if callable(self.inputs):
            return self._computed(self.inputs, batch)
        names = self.inputs or ()
        columns = list(names.values() if isinstance(names, Mapping) else names)
        missing = [name for name in columns if name not in batch]
        if missing:
            raise Error(
                f"adapt_model(inputs=...) names the column {missing[0]!r}, but the data have only "
                f"{', '.join(sorted(batch))}: add or rename a column."
            )
        arrays = [batch[name] for name in columns]
        if isinstance(names, Mapping):
            return Arguments((), dict(zip(names, arrays, strict=True)))
        return Arguments(tuple(arrays), {})

    def _computed(self, inputs: Callable[[Batch], tuple[Any, Any]], batch: Batch) -> Arguments:
        try:
            made = inputs(batch)
        except KeyError as error:
            raise Error(
                f"The function inputs of adapt_model needs the column {error}, but the data have "
                f"only {', '.join(sorted(batch))}: add or rename a column."
            ) from error
        match made:
            case (tuple() | list() as args, dict() as kwargs):
                return Arguments(tuple(args), kwargs)
        raise Error(
            "The function inputs of adapt_model must return (args, kwargs), a tuple and a dict, "
            f"and it returned {type(made).__name__}: write lambda batch: ((batch['x'],), {{}})."
        )

    def _pick(self, out: Any) -> Any:
        """The part of the model's output that `outputs` names."""
        if callable(self.outputs):
            return self.outputs(out)
        kind = type(out).__name__
        if isinstance(self.outputs, int):
            if isinstance(out, tuple | list) and -len(out) <= self.outputs < len(out):
                return out[self.outputs]
            size = f" of {len(out)}" if isinstance(out, tuple | list) else ""
            raise Error(
                f"outputs={self.outputs} picks from a tuple, but {name_of(self.model)} gives a "
                f"{kind}{size}."
            )
        if isinstance(out, Mapping) and self.outputs in out:
            return out[self.outputs]
        if not isinstance(out, Mapping) and hasattr(out, str(self.outputs)):
            return getattr(out, str(self.outputs))
        entries = f" with {', '.join(map(str, out))}" if isinstance(out, Mapping) else ""
        raise Error(
            f"outputs={self.outputs!r} picks an entry of a dict, but {name_of(self.model)} gives a "
            f"{kind}{entries}."
        )
