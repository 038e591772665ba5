"""Freezing: an objective some of whose parameters are not trained."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.types import Array, Batch, Decoder, Error, Key, Maker, Objective, LossOutput, Variables

FROZEN = "frozen"


def freeze(objective: Objective, pattern: str) -> Objective:
    """The same objective, with those parameters held still whose path ("Conv_0/kernel") `pattern` is found in.

    They move from the collection "params" to "frozen", which is carried along: no gradient is computed for them,
    no optimizer state is kept, and weight decay does not touch them. BatchNorm statistics go on being measured.
    """

    def split(variables: Variables) -> Variables:
        if FROZEN in variables:
            raise Error(
                "This objective has frozen parameters already: freeze once, with a pattern like 'one|other'."
            )
        paths = flatten_dict(variables["params"], sep="/")
        frozen = {path: v for path, v in paths.items() if re.search(pattern, path)}
        if not frozen or len(frozen) == len(paths):
            found = "all of the" if frozen else "none of the"
            raise Error(
                f"freeze({pattern!r}) matches {found} parameters, which are: {', '.join(paths)}."
            )
        trained = {path: v for path, v in paths.items() if path not in frozen}
        nested = {
            "params": unflatten_dict(trained, sep="/"),
            FROZEN: unflatten_dict(frozen, sep="/"),
        }
        return {**variables, **nested}

    def joined(variables: Variables) -> Variables:
        paths = flatten_dict(variables["params"], sep="/") | flatten_dict(
            variables[FROZEN], sep="/"
        )
        rest = {name: v for name, v in variables.items() if name != FROZEN}
        return {**rest, "params": unflatten_dict(paths, sep="/")}

    def init(key: Key, batch: Batch) -> Variables:
        return split(objective.init(key, batch))

    def loss(variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        out = objective.loss(joined(variables), batch, key, train)
        return replace(out, model_state={**out.model_state, FROZEN: variables[FROZEN]})

    def predict(variables: Variables, batch: Batch) -> Batch:
        assert objective.predict is not None
        return objective.predict(joined(variables), batch)

    def decoder(inner: Decoder) -> Decoder:
        def start(variables: Variables, batch: Batch) -> Any:
            return inner.start(joined(variables), batch)

        def following(variables: Variables, cache: Any, tokens: Array) -> tuple[Array, Any]:
            return inner.next(joined(variables), cache, tokens)

        return replace(inner, start=start, next=following)

    def maker(inner: Maker) -> Maker:
        def make(variables: Variables, z: Array, batch: Batch, key: Key) -> Array:
            return inner.make(joined(variables), z, batch, key)

        def encode(variables: Variables, batch: Batch) -> Array:
            assert inner.encode is not None
            return inner.encode(joined(variables), batch)

        return replace(inner, make=make, encode=encode if inner.encode else None)

    return replace(
        objective,
        init=init,
        loss=loss,
        predict=predict if objective.predict else None,
        decoder=decoder(objective.decoder) if objective.decoder else None,
        maker=maker(objective.maker) if objective.maker else None,
    )
