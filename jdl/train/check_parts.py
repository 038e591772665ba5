"""What users write themselves, checked where it meets the loop: loaders, hooks, learners."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.dataflow import dependences
from jdl.learners.check_loss import check_metrics, described
from jdl.learners.wrapper import inner
from jdl.paths import by_path, differing_paths
from jdl.run import Run
from jdl.types import ANNEALING, Batch, Error, Learner, Loader, Metrics, State

OWN = __name__.partition(".")[0]  # the package: its loaders have tests of their own
OF_CATEGORIES = (
    "Of a table whose columns are all categories, one_hot=True puts them into x, and without it "
    "they are in the column codes: jdl.adapt_model gives it to the model."
)
FOLDER = str(Path(__file__).parents[1])  # of the package


def check_hook(hook: Any) -> None:
    """Raises `Error` unless it is a pair (every, function) of a function of three arguments."""
    if not (
        isinstance(hook, tuple)
        and len(hook) == 2
        and isinstance(hook[0], int | np.integer)
        and hook[0] > 0
        and callable(hook[1])
    ):
        raise Error(
            "A hook of Run(hooks=...) must be a pair (every, function) with every of 1 or "
            f"more, not {hook!r}."
        )
    try:
        signature = inspect.signature(hook[1])
    except (TypeError, ValueError):  # of a function that is not written in Python
        return
    try:
        signature.bind(1, None, {})
    except TypeError as error:
        name = getattr(hook[1], "__name__", hook[1])
        raise Error(
            f"A hook is called with (step, state, metrics), and {name}{signature} cannot be "
            f"({error})."
        ) from None


def check_loader(split: str, data: Loader) -> None:
    """Raises `Error` where a loader of the user's gives other batches than it says.

    For training it must begin where it is told to: a run that resumes at step n reads from batch n
    on, and would train on other data. Evaluation reads from the first batch alone.
    """
    if type(data).read.__module__.partition(".")[0] == OWN:
        return
    if split == "train":
        _check_start(data)
    raw = next(iter(data.read()))
    made = jax.eval_shape(data.batch, raw, jax.ShapeDtypeStruct((), jnp.int32))
    spec = {  # NumPy's int64 becomes int32 on the device
        name: jax.ShapeDtypeStruct(column.shape, jax.dtypes.canonicalize_dtype(column.dtype))
        for name, column in data.spec.items()
    }
    if difference := tree_difference(spec, made):
        raise Error(
            f"{type(data).__name__}.spec, of Run({split}=...), is not that of its batches: "
            f"{difference}."
        )


def _check_start(data: Loader) -> None:
    if not inspect.signature(data.read).parameters:
        raise Error(
            f"{type(data).__name__}.read must take start, the batch with which it begins: "
            "def read(self, start=0)."
        )
    read = [*islice(data.read(0), 2), *islice(data.read(1), 1)]
    if len(read) < 3:
        raise Error(
            f"{type(data).__name__}.read must be endless: begin the next epoch after the last."
        )
    _, second, first = read
    if _bits(second) != _bits(first):
        raise Error(
            f"{type(data).__name__}.read(start), of Run(train=...), must begin with batch "
            "`start`: the first of read(1) is another batch than the second of read(0), and a run "
            "that resumes would go on with other data. Make batch i a function of i, with "
            "np.random.default_rng((seed, i)) for what is random, for i = start, start + 1, ..."
        )


def check_step(learner: Learner, old: State, new: State, metrics: Metrics) -> None:
    """Raises `Error` where a step would return other arrays than it got, or no metrics.

    And where parameters are empty, which Orbax does not save.
    """
    for path, leaf in by_path(old.params).items():
        if not leaf.size:
            raise Error(
                f"The parameter {path} has the shape {leaf.shape}, and so no number in it. "
                f"{OF_CATEGORIES}"
            )
    if difference := tree_difference(old, new):
        raise Error(
            f"A step of {type(inner(learner)).__name__} must return a state of the same arrays as "
            f"`init`: {difference}."
        )
    check_metrics(metrics, f"{type(inner(learner)).__name__}.step")


def check_annealing(learner: Learner, batch: Batch) -> None:
    """Raises `Error` where a learner of the user's does not give `jdl.anneal` the step's number."""
    state = jax.eval_shape(learner.init, jax.eval_shape(jax.random.key, 0), batch)
    if ANNEALING not in state.model_state:
        return
    jaxpr, (new, _) = jax.make_jaxpr(learner.step, return_shape=True)(state, batch)
    leaves, step = jax.tree.leaves(new), new.model_state[ANNEALING]["step"]
    place = next(n for n, leaf in enumerate(leaves) if leaf is step)
    given = next(n for n, leaf in enumerate(jax.tree.leaves(state)) if leaf is state.step)
    if given not in dependences(jaxpr.jaxpr)[place].inputs:
        raise Error(
            f"{type(inner(learner)).__name__} does not give jdl.anneal the number of the step: "
            "train by jdl.descent, or put state.step into the variables yourself, "
            '{"annealing": {"step": state.step}}, before each objective.loss.'
        )


def check_variables(learner: Learner, variables: Any) -> None:
    """Raises `Error` unless these are Flax's variables."""
    if not isinstance(variables, Mapping) or "params" not in variables:
        given = f"a dict of {', '.join(variables)}" if isinstance(variables, dict) else ""
        raise Error(
            f"{type(inner(learner)).__name__}.eval_variables must return Flax's variables, "
            '{"params": state.params, **state.model_state}, and not '
            f"{given or described(variables)}."
        )


def tree_difference(expected: Any, given: Any) -> str:
    """The first leaf in which two trees of arrays differ in shape or type, in words."""
    before, after = by_path(expected), by_path(given)
    for path in differing_paths(before, after):
        if path not in after:
            return f"{path} is missing"
        if path not in before:
            return f"{path} is new"
        words = (f"{leaf.dtype} of shape {leaf.shape}" for leaf in (after[path], before[path]))
        return f"{path} is {' and not '.join(words)}"
    return ""


@contextmanager
def explained(run: Run) -> Iterator[None]:
    """Says in words what tracing the functions of a run cannot do."""
    try:
        yield
    except jax.errors.TracerArrayConversionError as error:
        raise Error(
            f"NumPy, or what is built on it such as scikit-learn, is called {_place(error)}within "
            "the compiled step, where arrays have no values yet: use jax.numpy, or for a metric of "
            "all rows together jdl.metrics.Rows.of(function, columns, mask=...)."
        ) from error
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise Error(
            f"Python's if, while, and, or, float() or int() is used {_place(error)}on an array "
            "within the compiled step, where arrays have no values yet: use jnp.where(condition, "
            "a, b), jnp.logical_and or .astype instead, or jax.lax.cond and jax.lax.while_loop."
        ) from error
    except KeyError as error:
        columns, place = run.train.spec, _place(error)
        if not place or not error.args or error.args[0] in columns:
            raise
        raise Error(
            f"{error} is asked for {place}and is not there. Where a column is meant: the data have "
            f"only {', '.join(sorted(columns))}. Rename the column, or correct the name."
        ) from error
    except ZeroDivisionError as error:
        x = run.train.spec.get("x")
        if x is None or x.size:
            raise
        raise Error(
            f"The column x has the shape {x.shape}, which is no input for a model. {OF_CATEGORIES}"
        ) from error


def _place(error: Exception) -> str:
    """The last line of the user's code, in words; "" if it is not known."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith(FOLDER)
    ]
    return f"in line {frames[-1].lineno} of {frames[-1].filename} " if frames else ""


def _bits(tree: Any) -> dict[str, Any]:
    """The types, shapes and bits of a tree's arrays, by path."""

    def of_leaf(leaf: Any) -> tuple[Any, ...]:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        return array.dtype, array.shape, array.tobytes()

    return {path: of_leaf(leaf) for path, leaf in by_path(tree).items()}
