"""How an objective calls a model: the one place that knows Flax's `init` and `apply`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jdl.keys import stream
from jdl.types import MEMORY, Array, Batch, Decoder, Error, Key, Variables


def init(model: Any, key: Key, *inputs: Array) -> Variables:
    """The model's fresh variables for these inputs."""
    return dict(model.init({"params": key}, *inputs))


def init_from_x(model: Any, key: Key, batch: Batch) -> Variables:
    """The model's fresh variables for rows like `batch["x"]`."""
    return init(model, key, *from_x(batch))


def column(batch: Batch, name: str = "x") -> Array:
    """A column of the batch; `Error` where it has none of that name."""
    if name not in batch:
        raise Error(
            f"The model reads the column {name}, and the data have only {', '.join(sorted(batch))}: name one so."
        )
    return batch[name]


def from_x(batch: Batch) -> tuple[Array, ...]:
    """What most models read of a batch: x, and the edges of graphs where there are such."""
    return (column(batch), batch["edges"]) if "edges" in batch else (column(batch),)


def output_shape(
    model: Any, batch: Batch, inputs: Callable[[Batch], tuple[Array, ...]] = from_x
) -> tuple[int, ...]:
    """The shape of the model's output for the `inputs` of a batch, computed from shapes alone."""

    def run(batch: Batch) -> Array:
        return model.apply(
            _without_cache(init(model, jax.random.key(0), *inputs(batch))), *inputs(batch)
        )

    return jax.eval_shape(run, batch).shape


def steps(batch: Batch, length: str = "length", column: str = "x") -> Array | None:
    """Which steps of a column (B, T, ...) are real, (B, T): those before `length` in real rows.

    Without such a column, the rows that are real, (B,).
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
    """The model's output for `inputs`, and the variables it carries (BatchNorm statistics, ...) afterwards.

    It computes in the type of its parameters, and what it says comes as float32. Its mask is that of the steps of x
    that it is given. What a model remembers of the batch before is forgotten in rows where the column `start` says so;
    in evaluation, batches without that column are read with no memory at all. `method` is that of the model.
    """
    model_state = {name: v for name, v in variables.items() if name != "params"}
    mask = steps(batch)
    mask = mask if mask is None or mask.ndim == 1 else mask[:, : inputs[0].shape[1]]
    memory = _continued(model_state, batch, len(inputs[0])) if train or "start" in batch else {}
    dtype = next(
        (leaf.dtype for leaf in jax.tree.leaves(variables["params"]) if _is_float(leaf)),
        jnp.float32,
    )
    out, changed = model.apply(
        {**_without_cache(variables), **_floats_as(dtype, memory)},
        *_floats_as(dtype, inputs),
        train=train,
        mask=mask,
        rngs={"dropout": stream(key, "dropout")} if train else {},
        mutable=list(model_state if train else memory),
        method=method,
    )
    changed = jax.tree.map(
        lambda new, old: new.astype(old.dtype), dict(changed), {n: model_state[n] for n in changed}
    )
    return _floats_as(jnp.float32, out), {**model_state, **changed}


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _floats_as(dtype: Any, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if _is_float(leaf) else leaf, tree)


def _without_cache(variables: Variables) -> Variables:
    return {name: v for name, v in variables.items() if name != MEMORY}


def _continued(model_state: Variables, batch: Batch, rows: int) -> Variables:
    if MEMORY not in model_state:
        return {}
    remembered = {len(leaf) for leaf in jax.tree.leaves(model_state[MEMORY])}
    if remembered != {rows}:
        raise Error(
            f"The model remembers the last steps of {max(remembered)} rows, and the batch has {rows}: a model that "
            "remembers takes batches of one size, in one piece (micro_batches=1)."
        )
    if "start" not in batch:
        return {MEMORY: model_state[MEMORY]}

    def forget(leaf: Array) -> Array:
        fresh = batch["start"].reshape((-1,) + (1,) * (leaf.ndim - 1)).astype(bool)
        return jnp.where(fresh, jnp.zeros_like(leaf), leaf)

    return {MEMORY: jax.tree.map(forget, model_state[MEMORY])}


def decoder(model: Any) -> Decoder:
    """The decoder of a model that is called as `model(tokens, decode=True)` and keeps its cache by itself."""

    def start(variables: Variables, batch: Batch) -> Any:
        return {}

    def following(variables: Variables, cache: Any, tokens: Array) -> tuple[Array, Any]:
        logits, changed = model.apply(
            {**_without_cache(variables), **cache}, tokens, decode=True, mutable=[MEMORY]
        )
        return logits, {MEMORY: changed[MEMORY]}

    return Decoder(start, following, getattr(model, "longest", None))
