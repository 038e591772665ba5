"""How an objective calls its model: the one place that knows Flax's `init` and `apply`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.types import CACHE, Array, Batch, Error, Key, Variables


def init(model: Any, key: Key, *inputs: Array) -> Variables:
    """The model's initial variables for these inputs."""
    return dict(model.init({"params": key}, *inputs))


def init_from_batch(model: Any, key: Key, batch: Batch) -> Variables:
    """The model's initial variables for rows like those of the batch."""
    return init(model, key, *model_inputs(batch))


def column(batch: Batch, name: str = "x") -> Array:
    """A column of the batch; `Error` where it has none of that name."""
    if name not in batch:
        raise Error(
            f"The model reads the column {name}, and the data have only "
            f"{', '.join(sorted(batch))}: name one so."
        )
    return batch[name]


def model_inputs(batch: Batch) -> tuple[Array, ...]:
    """What most models read of a batch: x, and the edges of graphs where there are any."""
    return (column(batch), batch["edges"]) if "edges" in batch else (column(batch),)


def output_shape(
    model: Any, batch: Batch, inputs: Callable[[Batch], tuple[Array, ...]] = model_inputs
) -> tuple[int, ...]:
    """The shape of the model's output for the `inputs` of a batch, from shapes alone."""

    def run(batch: Batch) -> Array:
        variables = init(model, jax.random.key(0), *inputs(batch))
        return model.apply(_without_cache(variables), *inputs(batch))

    return jax.eval_shape(run, batch).shape


def time_mask(batch: Batch, length: str = "length", column: str = "x") -> Array | None:
    """Which time steps of a column (B, T, ...) are real, (B, T): those before `length`.

    Padding rows have none. Without a column `length`: the rows that are real, (B,), or None where
    all are.
    """
    rows = batch.get("mask")
    if length not in batch:
        return rows
    real = jnp.arange(batch[column].shape[1])[None] < batch[length][:, None]
    return real if rows is None else real & rows.astype(bool)[:, None]


def apply(
    model: Any,
    variables: Variables,
    inputs: tuple[Array, ...],
    batch: Batch,
    key: Key,
    train: bool,
    method: str = "__call__",
) -> tuple[Any, Variables]:
    """The model's output for `inputs`, and the model state (BatchNorm statistics, ...) afterwards.

    The model computes in the type of its parameters, and its output comes as float32. Its mask is
    that of the time steps of x. A stateful model forgets the batch before in rows where the column
    `start` is true; in evaluation, batches without that column are read from empty states. `method`
    is the name of the model's method.
    """
    model_state = {name: v for name, v in variables.items() if name != "params"}
    mask = time_mask(batch)
    mask = mask if mask is None or mask.ndim == 1 else mask[:, : inputs[0].shape[1]]
    cache = _carried_cache(model_state, batch, len(inputs[0])) if train or "start" in batch else {}
    floats = (leaf.dtype for leaf in jax.tree.leaves(variables["params"]) if _is_float(leaf))
    dtype = next(floats, jnp.float32)
    out, changed = model.apply(
        {**_without_cache(variables), **_cast_floats(dtype, cache)},
        *_cast_floats(dtype, inputs),
        train=train,
        mask=mask,
        rngs={"dropout": stream(key, "dropout")} if train else {},
        mutable=list(model_state if train else cache),
        method=method,
    )
    before = {name: model_state[name] for name in changed}
    changed = jax.tree.map(lambda new, old: new.astype(old.dtype), dict(changed), before)
    return _cast_floats(jnp.float32, out), {**model_state, **changed}


def evaluate(
    model: Any,
    variables: Variables,
    batch: Batch,
    inputs: tuple[Array, ...] | None = None,
    method: str = "__call__",
) -> Any:
    """The model's output in evaluation, for `inputs` or for those of the batch."""
    inputs = model_inputs(batch) if inputs is None else inputs
    return apply(model, variables, inputs, batch, jax.random.key(0), False, method)[0]


def next_logits(
    model: Any, variables: Variables, cache: Any, tokens: Array
) -> tuple[Array, Variables]:
    """Logits after each of the next tokens, and the new KV cache: `model(tokens, decode=True)`."""
    logits, changed = model.apply(
        {**_without_cache(variables), **cache}, tokens, decode=True, mutable=[CACHE]
    )
    return logits, {CACHE: changed[CACHE]}


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _cast_floats(dtype: Any, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if _is_float(leaf) else leaf, tree)


def _without_cache(variables: Variables) -> Variables:
    return {name: v for name, v in variables.items() if name != CACHE}


def _carried_cache(model_state: Variables, batch: Batch, rows: int) -> Variables:
    """The states that a stateful model goes on from, zero in rows that start anew."""
    if CACHE not in model_state:
        return {}
    sizes = {len(leaf) for leaf in jax.tree.leaves(model_state[CACHE])}
    if sizes != {rows}:
        raise Error(
            f"The model keeps the states of {max(sizes)} rows, and the batch has {rows}: a "
            "stateful model takes batches of one size, in one piece (micro_batches=1)."
        )
    if "start" not in batch:
        return {CACHE: model_state[CACHE]}

    def reset(leaf: Array) -> Array:
        start = batch["start"].reshape((-1,) + (1,) * (leaf.ndim - 1)).astype(bool)
        return jnp.where(start, jnp.zeros_like(leaf), leaf)

    return {CACHE: jax.tree.map(reset, model_state[CACHE])}
