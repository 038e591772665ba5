"""How an objective calls a model: the one place that knows Flax's `init` and `apply`."""

from typing import Any

import jax

from jdl.keys import stream
from jdl.types import Array, Batch, Error, Key, Variables


def init(model: Any, key: Key, batch: Batch) -> Variables:
    """The model's fresh variables for rows like `batch["x"]`."""
    if "x" not in batch:
        raise Error(f"The model reads the column x, and the data have only {', '.join(sorted(batch))}: name one x.")
    return dict(model.init({"params": key}, batch["x"]))


def output_shape(model: Any, batch: Batch) -> tuple[int, ...]:
    """The shape of the model's output for rows like `batch["x"]`, computed from shapes alone."""
    return jax.eval_shape(lambda batch: model.apply(init(model, jax.random.key(0), batch), batch["x"]), batch).shape


def apply(model: Any, variables: Variables, batch: Batch, key: Key, train: bool) -> tuple[Array, Variables]:
    """The model's output for `batch["x"]`, and the variables it carries (BatchNorm statistics, ...) afterwards."""
    carry = {name: v for name, v in variables.items() if name != "params"}
    if not train:
        return model.apply(variables, batch["x"], mask=batch.get("mask")), carry
    out, changed = model.apply(
        variables,
        batch["x"],
        train=True,
        mask=batch.get("mask"),
        rngs={"dropout": stream(key, "dropout")},
        mutable=list(carry),
    )
    return out, {**carry, **changed}
