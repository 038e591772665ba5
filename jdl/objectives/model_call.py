"""Calls of a model by its objective: its inputs, the keywords that it asks for, its state."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import ModifyScopeVariableError, ScopeCollectionNotFound
from flax.traverse_util import flatten_dict

from jdl.keys import stream
from jdl.layers import ROW_DROPOUT, device_key
from jdl.types import CACHE, Array, Batch, Error, Key, Objective, Variables


def init(model: Any, key: Key, batch: Batch, *inputs: Array) -> Variables:
    """The model's initial variables for these inputs, made of the batch."""
    options = keywords(model, "__call__", False, batch)
    return dict(model.init({"params": key}, *inputs, **options))


@dataclass(frozen=True, eq=False)
class ModelObjective(Objective):
    """An objective of one model whose inputs are those of `model_inputs`."""

    model: Any

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables."""
        return init(self.model, key, batch, *model_inputs(batch))


def column(batch: Batch, name: str = "x") -> Array:
    """A column of the batch; raises `Error` if it is missing."""
    if name not in batch:
        raise Error(
            f"The objective needs the column {name}, but the data have only "
            f"{', '.join(sorted(batch))}: add or rename a column."
        )
    return batch[name]


def model_inputs(batch: Batch) -> tuple[Array, ...]:
    """The inputs of most models: the column x, and the column edges if there is one (graphs)."""
    return (column(batch), batch["edges"]) if "edges" in batch else (column(batch),)


def output_shape(
    model: Any, batch: Batch, inputs: Callable[[Batch], tuple[Array, ...]] = model_inputs
) -> tuple[int, ...]:
    """The shape of the model's output for the `inputs` of a batch, by `jax.eval_shape`."""

    def run(batch: Batch) -> Array:
        variables = init(model, jax.random.key(0), batch, *inputs(batch))
        return evaluate(model, variables, batch, inputs(batch))

    return jax.eval_shape(run, batch).shape


def keywords(
    model: Any, method: str, train: bool, batch: Batch, mask: Array | None = None
) -> dict[str, Any]:
    """What a model's method asks for besides its inputs, by the names that Flax's users give it.

    In training `train`, `training` and `is_training` are true, `deterministic` and
    `use_running_average` false. `mask` is that of the real rows (B,) or time steps (B, T), which is
    no mask of attention; `lengths` and `seq_lengths` are the column `length`, `edge_features` the
    column of that name (graphs). A method that does not name one of them does not get it.
    """
    known: dict[str, Any] = {
        **dict.fromkeys(("train", "training", "is_training"), train),
        **dict.fromkeys(("deterministic", "use_running_average"), not train),
        "mask": mask,
    }
    if "length" in batch:
        known |= dict.fromkeys(("lengths", "seq_lengths"), batch["length"])
    if "edge_features" in batch:
        known["edge_features"] = batch["edge_features"]
    return {name: known[name] for name in _parameters(model, method) if name in known}


def _parameters(model: Any, method: str) -> tuple[str, ...]:
    """The names of the method's parameters; a model that is no Linen module may list them."""
    if hasattr(model, "parameters"):
        return model.parameters(method)
    parameters = inspect.signature(getattr(type(model), method)).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds and not isinstance(model, nn.Sequential):
        raise Error(
            f"{type(model).__name__}.{method} takes any keyword (**), so it cannot be known which "
            "ones it needs: name those that it passes on, such as train or deterministic."
        )
    return tuple(parameters)


def _cut_lengths(batch: Batch, x: Array) -> Batch:
    """The batch with lengths of at most the time steps of x, which can be shorter than the row."""
    if "length" not in batch or x.ndim < 2:
        return batch
    return {**batch, "length": batch["length"].clip(max=x.shape[1])}


def time_mask(batch: Batch, length: str = "length", column: str = "x") -> Array | None:
    """The mask (B, T) of the real time steps of a column (B, T, ...): those before `length`.

    Padding rows have no real steps. If there is no column `length`, it is the mask (B,) of the real
    rows, or None if all rows are real.
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

    The model computes in the dtype of its parameters; its output is cast to float32. It gets those
    of the `keywords` that it asks for; the mask is `time_mask(batch)`. The states that a stateful
    model carries from batch to batch are reset in rows where the column `start` is true; in
    evaluation, batches without that column begin with zero states. `method` is the name of the
    model's method.
    """
    model_state = {name: v for name, v in variables.items() if name != "params"}
    mask = time_mask(batch)
    # The inputs can be shorter than x: `next_token` leaves out the last step.
    mask = mask if mask is None or mask.ndim == 1 else mask[:, : inputs[0].shape[1]]
    cache = _carried_cache(model_state, batch, len(inputs[0])) if train or "start" in batch else {}
    floats = (leaf.dtype for leaf in jax.tree.leaves(variables["params"]) if _is_float(leaf))
    dtype = next(floats, jnp.float32)
    try:
        out, changed = model.apply(
            {**_without_cache(variables), **_cast_floats(dtype, cache)},
            *_cast_floats(dtype, inputs),
            **keywords(model, method, train, _cut_lengths(batch, inputs[0]), mask),
            rngs=_rngs(key) if train else {},
            mutable=list(model_state if train else cache),
            method=method,
        )
    except (ModifyScopeVariableError, ScopeCollectionNotFound) as error:
        advice = (
            "create all of them when it is initialized" if train else "change them in training only"
        )
        raise Error(
            f"{type(model).__name__} changes variables in {'training' if train else 'evaluation'} "
            f"that it cannot: {error} Let it {advice}."
        ) from error
    before = {name: model_state[name] for name in changed}
    if flatten_dict(changed).keys() != flatten_dict(before).keys():
        raise Error(
            f"{type(model).__name__} creates variables in training that it does not have when it "
            f"is initialized, in {sorted(changed)}: create all of them then, and do not `sow`."
        )
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
    """`model(tokens, decode=True)`: the logits after each next token, and the new KV cache."""
    logits, changed = model.apply(
        {**_without_cache(variables), **cache}, tokens, decode=True, mutable=[CACHE]
    )
    return logits, {CACHE: changed[CACHE]}


def _rngs(key: Key) -> dict[str, Key]:
    """The random streams of a Flax module in training.

    Our layers draw row by row from `ROW_DROPOUT`, Flax's own the whole array from "dropout", and
    any other stream falls back on "params" (Flax's rule): the keys of these two differ from one
    device to another.
    """
    dropout = stream(key, "dropout")
    other = device_key(stream(key, "params"))
    return {ROW_DROPOUT: dropout, "dropout": device_key(dropout), "params": other}


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _cast_floats(dtype: Any, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if _is_float(leaf) else leaf, tree)


def _without_cache(variables: Variables) -> Variables:
    return {name: v for name, v in variables.items() if name != CACHE}


def _carried_cache(model_state: Variables, batch: Batch, rows: int) -> Variables:
    """The states that a stateful model continues from, zero in rows where `start` is true."""
    if CACHE not in model_state:
        return {}
    sizes = {len(leaf) for leaf in jax.tree.leaves(model_state[CACHE])}
    if sizes != {rows}:
        raise Error(
            f"The model carries the states of {max(sizes)} rows, but the batch has {rows}: a "
            "stateful model needs batches of one size, and micro_batches=1."
        )
    if "start" not in batch:
        return {CACHE: model_state[CACHE]}

    def reset(leaf: Array) -> Array:
        start = batch["start"].reshape((-1,) + (1,) * (leaf.ndim - 1)).astype(bool)
        return jnp.where(start, jnp.zeros_like(leaf), leaf)

    return {CACHE: jax.tree.map(reset, model_state[CACHE])}
