"""Calls of a model by its objective: its inputs, the keywords that it asks for, its state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from jdl.image_bytes import rescale
from jdl.keys import stream
from jdl.layers import ROW_DROPOUT, device_key
from jdl.objectives.adapted_model import AdaptedModel, Arguments
from jdl.objectives.axis_names import without_axis_names
from jdl.objectives.model_errors import (
    check_params,
    check_shapes,
    check_sown,
    flax_errors,
    watched_call,
)
from jdl.objectives.model_keywords import keywords, name_of, signature_of, unknown_flags
from jdl.patterns import balance_biases
from jdl.types import BATCH_STATS, CACHE, Array, Batch, Error, Key, Objective, Variables

SOWN = "intermediates"  # the collection in which Flax modules `sow`


def init(model: Any, key: Key, batch: Batch, *inputs: Any) -> Variables:
    """The model's initial variables for these inputs, made of the batch."""
    args, kwargs = _arguments(model, inputs, "__call__")
    mask = None
    if "length" in batch:  # a model that asks for it has it in each call
        mask, batch = _mask_and_batch(inputs, batch)
    options = keywords(model, "__call__", args, kwargs, False, batch, mask)
    variables = without_axis_names(dict(model.init({"params": key}, *args, **kwargs, **options)))
    check_params(model, variables.get("params", {}))
    return variables


@dataclass(frozen=True, eq=False)
class ModelObjective(Objective):
    """An objective of one model whose inputs are those of `model_inputs`."""

    model: Any

    def seen(self, batch: Batch) -> Batch:
        """The batch that the model sees: by default all of it."""
        return batch

    def init(self, key: Key, batch: Batch) -> Variables:
        """The model's initial variables."""
        seen = self.seen(batch)
        return init(self.model, key, seen, *model_inputs(self.model, seen))

    def outputs(
        self, variables: Variables, batch: Batch, key: Key, train: bool
    ) -> tuple[Any, Variables]:
        """The model's output for a batch, and the model state afterwards."""
        seen = self.seen(batch)
        return apply(self.model, variables, model_inputs(self.model, seen), seen, key, train)


def column(batch: Batch, name: str = "x") -> Array:
    """A column of the batch, images of bytes as 0 to 1; raises `Error` if it is missing."""
    if not isinstance(batch, Mapping):
        raise Error(
            f"An objective takes a batch, a dict of columns such as {{'x': x}}, and it was given "
            f"{type(batch).__name__}."
        )
    if name not in batch:
        raise Error(
            f"The objective needs the column {name}, but the data have only "
            f"{', '.join(sorted(batch))}: add or rename a column."
        )
    return rescale(name, batch[name])


def model_inputs(model: Any, batch: Batch) -> tuple[Any, ...]:
    """The inputs of a model: the column x, and the column edges if there is one (graphs).

    Those of an adapted model are the `Arguments` that it makes of the batch. An objective that
    changes x gives a batch with the changed x here, and to `apply`.
    """
    if isinstance(model, AdaptedModel) and model.inputs is not None:
        return (model.arguments({name: rescale(name, c) for name, c in batch.items()}),)
    x = column(batch)
    return (x, batch["edges"]) if "edges" in batch else (x,)


def _arguments(
    model: Any, inputs: tuple[Any, ...], method: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a model's call, by place and by name."""
    if isinstance(inputs[0], Arguments):
        return inputs[0].args, inputs[0].kwargs
    if isinstance(model, AdaptedModel) and model.inputs is not None:
        raise Error(
            f"This objective makes the inputs of the model's {method} itself, from the column x, "
            "so adapt_model(model, inputs=...) would have no effect: leave inputs out."
        )
    return inputs, {}


def example_keys(key: Key, batch: Batch) -> Key:
    """A key (B,) for each row, by its id: the same in whatever batch the row stands."""
    ids = batch.get("id", jnp.arange(len(column(batch))))
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


def require_methods(objective: str, model: Any, *methods: str) -> None:
    """Raises `Error` where the model lacks a method that the objective of this name calls."""
    for method in methods:
        try:
            signature_of(model, method)
        except AttributeError:
            raise Error(
                f"{objective} needs a model with the methods {' and '.join(methods)}, and "
                f"{name_of(model)} has no {method}."
            ) from None


def output_shape(
    model: Any, batch: Batch, inputs: Callable[[Batch], tuple[Any, ...]] | None = None
) -> tuple[int, ...]:
    """The shape of the model's output for the `inputs` of a batch, by `jax.eval_shape`.

    Raises `Error` if it is not an array with a row for each row of the batch, and if a state of the
    model depends on the number of rows.
    """
    out = output_spec(model, batch, inputs)
    rows = len(next(iter(batch.values())))
    if not hasattr(out, "shape"):
        raise Error(
            f"{name_of(model)} gives {_describe(out)}, and this objective needs one array: pick it "
            "by jdl.adapt_model(model, outputs=...), with the name of a dict's entry, the place in "
            "a tuple, or a function. (A pair whose apply returns (out, state) is "
            "jdl.Model(init, apply, stateful=True).)"
        )
    if out.shape[:1] != (rows,):
        raise Error(
            f"{name_of(model)} gives an output of shape {out.shape} for a batch of {rows} rows: "
            f"its first axis must be the rows, ({rows}, ...)."
        )
    return out.shape


def output_spec(
    model: Any, batch: Batch, inputs: Callable[[Batch], tuple[Any, ...]] | None = None
) -> Any:
    """The shapes and types of the model's output, an array or several, by `jax.eval_shape`.

    Raises `Error` if a state of the model depends on the number of rows.
    """

    def inputs_of(batch: Batch) -> tuple[Any, ...]:
        return model_inputs(model, batch) if inputs is None else inputs(batch)

    def run(batch: Batch) -> tuple[Variables, Any]:
        variables = init(model, jax.random.key(0), batch, *inputs_of(batch))
        return variables, evaluate(model, variables, batch, inputs_of(batch))

    variables, out = jax.eval_shape(run, batch)
    if variables.keys() - {"params", BATCH_STATS} and CACHE not in variables:
        _check_state(model, variables, batch, inputs_of)
    return out


def _describe(out: Any) -> str:
    if isinstance(out, dict):
        return f"a dict with {', '.join(map(str, out))}"
    size = f" of {len(out)}" if isinstance(out, tuple | list) else ""
    return f"a {type(out).__name__}{size}"


def _check_state(
    model: Any,
    variables: Variables,
    batch: Batch,
    inputs_of: Callable[[Batch], tuple[Any, ...]],
) -> None:
    """Raises `Error` if the state depends on the batch size: by shapes, for one row more."""
    rows = len(next(iter(batch.values())))
    more = {
        name: jax.ShapeDtypeStruct((rows + 1, *column.shape[1:]), column.dtype)
        for name, column in batch.items()
    }
    advice = "a state, sown values too, must not depend on the batch size: evaluation has another."

    def start(batch: Batch) -> Variables:
        return init(model, jax.random.key(0), batch, *inputs_of(batch))

    def step(variables: Variables, batch: Batch) -> Variables:
        return apply(model, variables, inputs_of(batch), batch, jax.random.key(0), True)[1]

    check_shapes(model, variables, jax.eval_shape(start, more), f"for {rows + 1} rows; {advice}")
    try:
        jax.eval_shape(step, variables, more)
    except (TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise Error(
            f"{name_of(model)} was initialized for {rows} rows, and cannot be trained on "
            f"{rows + 1}: {reason} Where this is of its state: {advice}"
        ) from error


def _mask_and_batch(inputs: tuple[Any, ...], batch: Batch) -> tuple[Array | None, Batch]:
    """The mask for the model, and the batch with lengths of at most the time steps of x.

    The input x can be shorter than the column: `next_token` drops the last step. Of an adapted
    model without x it is not known which axis is time: it gets the mask (B,) of the rows, and the
    lengths as they are.
    """
    x = batch.get("x") if isinstance(inputs[0], Arguments) else inputs[0]
    if "length" not in batch or x is None or x.ndim < 2:
        return batch.get("mask"), batch
    mask = time_mask({**batch, "x": x})
    return mask, {**batch, "length": batch["length"].clip(max=x.shape[1])}


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


def of_model(variables: Variables) -> Variables:
    """The variables of the model alone, of an objective with parameters of its own beside them."""
    return {**variables, "params": variables["params"]["model"]}


def time_steps(batch: Batch) -> tuple[int | None, Array | None]:
    """The time steps of x, and how many of them are real in each row (B,); None: not known."""
    if "width" in batch:
        return column(batch).shape[2], batch["width"]
    if "length" in batch:
        return column(batch).shape[1], batch["length"]
    return None, None


def real_outputs(batch: Batch, rows: int, outputs: int) -> Array:
    """The mask (rows, outputs) of the outputs that have a real step in a real row."""
    real = jnp.ones((rows, outputs), bool)
    if "mask" in batch:
        real &= batch["mask"].astype(bool)[:, None]
    steps, lengths = time_steps(batch)
    if steps is None or lengths is None:
        return real
    first_steps = jnp.arange(outputs) * (steps // outputs)
    return real & (first_steps[None] < lengths[:, None])


def apply(
    model: Any,
    variables: Variables,
    inputs: tuple[Any, ...],
    batch: Batch,
    key: Key,
    train: bool,
    method: str = "__call__",
    with_sown: bool = False,
) -> tuple[Any, Variables]:
    """The model's output for `inputs`, and the model state (BatchNorm statistics, ...) afterwards.

    The model computes in the dtype of its parameters; its output is cast to float32. It gets those
    of the `keywords` that it asks for; the mask is `time_mask(batch)`, or of the rows (B,) where an
    adapted model has no x. The states that a stateful model carries from batch to batch are reset
    in rows where the column `start` is true; in evaluation, batches without that column begin with
    zero states. `method` is the model's; `with_sown`, the state has what it sows, to be taken out.
    """
    args, kwargs = _arguments(model, inputs, method)
    model_state = {name: v for name, v in variables.items() if name != "params"}
    mask, batch = _mask_and_batch(inputs, batch)
    cache = _carried_cache(model_state, batch, inputs) if train or "start" in batch else {}
    dtype = _dtype(variables)
    call = partial(
        model.apply,
        {**_without_cache(variables), **_cast_floats(dtype, cache)},
        *_cast_floats(dtype, args),
        **_cast_floats(dtype, kwargs),
        **keywords(model, method, args, kwargs, train, batch, mask),
        rngs=_rngs(key) if train else {},
        mutable=[*(model_state if train else cache), *([SOWN] if with_sown else [])],
        method=method,
    )
    flags = unknown_flags(model, method, args, kwargs) if train else {}
    with flax_errors(model, (args, kwargs), train):
        out, changed = watched_call(model, flags, call, model_state) if flags else call()
    changed = dict(changed)
    sown = {SOWN: changed.pop(SOWN)} if SOWN in changed and SOWN not in model_state else {}
    before = {name: model_state[name] for name in changed}
    if flatten_dict(changed).keys() != flatten_dict(before).keys():
        raise Error(
            f"{name_of(model)} creates variables in training that it does not have when it "
            f"is initialized, in {sorted(changed)}: create all of them then, and do not `sow`."
        )
    check_sown(model, before, changed)
    check_shapes(model, before, changed, "after a training step: it must keep its shape.")
    changed = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), changed, before)
    return _cast_floats(jnp.float32, out), {**model_state, **changed, **sown}


def evaluate(
    model: Any,
    variables: Variables,
    batch: Batch,
    inputs: tuple[Any, ...] | None = None,
    method: str = "__call__",
) -> Any:
    """The model's output in evaluation, for `inputs` or for those of the batch."""
    inputs = model_inputs(model, batch) if inputs is None else inputs
    return apply(model, variables, inputs, batch, jax.random.key(0), False, method)[0]


def next_logits(
    model: Any,
    variables: Variables,
    cache: Any,
    *inputs: Any,
    method: str = "__call__",
    **given: Any,
) -> tuple[Array, Variables]:
    """`model(tokens, decode=True)`: the logits after each next token, and the new KV cache."""
    logits, changed = model.apply(
        {**_without_cache(variables), **cache},
        *_cast_floats(_dtype(variables), _arguments(model, inputs, method)[0]),
        decode=True,
        mutable=[CACHE],
        method=method,
        **given,
    )
    if CACHE not in changed:
        raise Error(
            f"{name_of(model)} has an argument decode, and keeps no variables in the collection "
            f"{CACHE!r} with decode=True: keep keys and values there, or leave the argument out."
        )
    return logits, {CACHE: changed[CACHE]}


def _dtype(variables: Variables) -> Any:
    """The type of the parameters, in which the model computes."""
    params = variables["params"]
    balances = jax.tree.leaves(balance_biases(params))  # float32 in mixed precision too
    leaves = zip(jax.tree.leaves(params), balances, strict=True)
    return next((p.dtype for p, bias in leaves if _is_float(p) and not bias), jnp.float32)


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
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def _cast_floats(dtype: Any, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if _is_float(leaf) else leaf, tree)


def _without_cache(variables: Variables) -> Variables:
    return {name: v for name, v in variables.items() if name != CACHE}


def _carried_cache(model_state: Variables, batch: Batch, inputs: tuple[Any, ...]) -> Variables:
    """The states that a stateful model continues from, zero in rows where `start` is true."""
    if CACHE not in model_state:
        return {}
    rows = next(len(leaf) for leaf in jax.tree.leaves(inputs) if getattr(leaf, "ndim", 0))
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
