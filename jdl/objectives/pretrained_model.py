"""Pretrained models: models that begin with given weights instead of random ones."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.objectives.adapted_model import AdaptedModel
from jdl.objectives.axis_names import without_axis_names
from jdl.objectives.model_keywords import name_of, signature_of
from jdl.types import CACHE, Array, Error, Variables

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights: arrays by name, such as "params/Conv_0/kernel", and where they come from.

    They are read when they are first needed: `open_arrays` gives the arrays, the SHA-256 of what
    they were read from, and the source, such as "hf:organization/model@revision".
    """

    open_arrays: Callable[[], tuple[Arrays, str, str]]

    def __repr__(self) -> str:
        try:
            arrays, digest, source = self._opened
        except Error as error:  # what is shown at a prompt, or in a debugger, raises nothing
            return f"Weights({error})"
        numbers, size = (sum(getattr(a, n) for a in arrays.values()) for n in ("size", "nbytes"))
        return (
            f"Weights({source}: {len(arrays):,} arrays, {numbers:,} numbers, {size:,} bytes, "
            f"SHA-256 {digest[:12]})"
        )

    @property
    def arrays(self) -> Arrays:
        """The arrays by name."""
        return self._opened[0]

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, or of a run's arrays."""
        return self._opened[1]

    @property
    def source(self) -> str:
        """Where they come from."""
        return self._opened[2]

    def map(self, change: Callable[[Arrays], Arrays]) -> Weights:
        """The same weights with other names or layouts; source and SHA-256 stay."""
        return Weights(lambda: (change(self.arrays), self.sha256, self.source))

    @cached_property
    def _opened(self) -> tuple[Arrays, str, str]:
        with jax.ensure_compile_time_eval():  # a model is often initialized while it is traced
            return self.open_arrays()


def pretrained(
    model: Any,
    weights: Weights,
    rename: Mapping[str, str] | None = None,
    skip: str | None = None,
    grow_vocabulary: bool = False,
) -> PretrainedModel:
    """A model that begins with pretrained weights, for fine-tuning (transfer learning).

    Weights and the model's variables are matched by path, such as "params/Conv_0/kernel" or
    "batch_stats/BatchNorm_0/mean". `rename` changes the names of the weights first: regular
    expressions and what takes their place, one after the other, as `re.sub` does. Where `skip`, a
    regular expression, is found in a path, the model's variable stays fresh and the weight is left
    out. All others must match, with equal shapes, and no weight may be left over. Numbers are cast
    to the model's type where that loses nothing (bfloat16 to float32). With `grow_vocabulary` the
    model may have more tokens than the weights, at the end of its vocabulary (`vocab_size`): the
    token table, and an untied head, are the weights' and for each new token their mean. Raises
    `Error` with a list of what does not match, and where `skip` or a name of `rename` is found
    nowhere.

    The source of the weights and their SHA-256 are recorded in run.json, and a run is not resumed
    with other weights. Once it has a checkpoint it does not need them any more.
    """
    if not isinstance(weights, Weights):
        is_name = isinstance(weights, str) or hasattr(weights, "__fspath__")
        given = repr(str(weights)) if is_name else f"a {type(weights).__name__}"
        raise Error(
            f"pretrained takes jdl.weights.load(source), not {given}. Write arrays in memory to a "
            'file first, jdl.weights.save(variables, "file.safetensors"), and load that: its '
            "SHA-256 is recorded with the run."
        )
    if isinstance(model, AdaptedModel):
        raise Error("Adapt the pretrained model: jdl.adapt_model(jdl.pretrained(model, ...), ...).")
    return PretrainedModel(
        model, weights, dict(rename or {}), skip, grow_vocabulary=grow_vocabulary
    )


@dataclass(frozen=True)
class Loaded:
    """What a model loads: its arrays by path, and a table of what came from where."""

    arrays: dict[str, np.ndarray]
    source: str
    sha256: str
    names: dict[str, str]  # of the weights, by the path that they have in the model
    fresh: list[str]  # paths that stay as the model makes them
    left_out: list[str]  # names of weights that are not used

    def record(self) -> dict[str, Any]:
        """The table for run.json, without the arrays."""
        fields = ("source", "sha256", "names", "fresh", "left_out")
        return {name: getattr(self, name) for name in fields}

    def __str__(self) -> str:
        if not self.arrays:
            return f"The weights of {self.source} cannot be read, and the checkpoint has them"
        numbers = sum(array.size for array in self.arrays.values())
        text = f"Loaded {len(self.arrays):,} arrays with {numbers:,} numbers from {self.source}"
        text += f", SHA-256 {self.sha256[:12]}"
        text += f"; fresh: {_listed(self.fresh)}" if self.fresh else ""
        return text + (f"; not used: {_listed(self.left_out)}" if self.left_out else "")


@dataclass(frozen=True)
class DecoderTokens:
    """The tokens that an encoder-decoder was pretrained with; None where its files name none."""

    start: int | None  # with which the decoder begins
    eos: int | None  # with which texts end


@dataclass(frozen=True, eq=False)
class PretrainedModel:
    """A model that begins with pretrained weights; see `pretrained`."""

    model: Any
    weights: Weights
    rename: Mapping[str, str]
    skip: str | None
    may_skip: str | None = None  # the same, of parts that the model need not have
    decoder_tokens: DecoderTokens | None = None  # of an encoder-decoder of Hugging Face
    grow_vocabulary: bool = False

    def __str__(self) -> str:
        return f"pretrained({name_of(self.model)})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copy and pickle ask for
            raise AttributeError(name)
        return getattr(self.model, name)

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Variables:
        """The model's variables, with the pretrained weights in their places."""
        fresh = flatten_dict(
            without_axis_names(dict(self.model.init(rngs, *args, **kwargs))),
            sep="/",
            keep_empty_nodes=True,
        )
        loaded = {path: jnp.asarray(array) for path, array in _provider.get()(self, fresh).items()}
        return unflatten_dict({**fresh, **loaded}, sep="/")

    def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        return self.model.apply(variables, *args, **kwargs)

    def signature(self, method: str) -> inspect.Signature:
        """How the model is called."""
        return signature_of(self.model, method)

    def load(self, fresh: Mapping[str, Any]) -> Loaded:
        """The weights for the variables `fresh`, whose shapes and types by path are compared."""
        for pattern in self.rename:
            if not any(re.search(pattern, name) for name in self.weights.arrays):
                raise Error(f"rename: {pattern!r} is in no name of {self.weights.source}.")
        named = {self._renamed(name): name for name in self.weights.arrays}
        if len(named) < len(self.weights.arrays):
            raise Error(
                f"rename={self.rename!r} gives two weights of {self.weights.source} one name."
            )
        wanted = [path for path, leaf in fresh.items() if _may_load(path, leaf)]
        missing = [path for path in wanted if not self.skips(path) and path not in named]
        left_out = [name for name in named if self.skips(name)]
        if self.skip is not None and not any(_found(self.skip, p) for p in (*wanted, *named)):
            raise Error(f"skip={self.skip!r} is in no path of {name_of(self.model)}.")
        extra = [name for name in named if name not in left_out and name not in wanted]
        names = {p: named[p] for p in wanted if p in named and not self.skips(p)}
        given = {path: self.weights.arrays[name] for path, name in names.items()}
        if self.grow_vocabulary:
            if (size := getattr(self.model, "vocab_size", None)) is None:
                raise Error(
                    "grow_vocabulary needs a model with an attribute vocab_size, its number of "
                    f"tokens, and {name_of(self.model)} has none: leave it out, or add that."
                )
            given = {path: _grown(array, fresh[path], size) for path, array in given.items()}
        wrong = {
            path: f"{_describe(array)} for {_describe(fresh[path])}"
            for path, array in given.items()
            if not _fits(array, fresh[path])
        }
        if missing or extra or wrong:
            raise Error(self._mismatch(missing, extra, wrong))
        arrays = {
            path: np.asarray(array).astype(fresh[path].dtype, copy=False)
            for path, array in given.items()
        }
        if not arrays:
            raise Error(f"skip={self.skip!r} skips all weights of {self.weights.source}.")
        skipped = [path for path in wanted if path not in names]
        return Loaded(
            arrays,
            self.weights.source,
            self.weights.sha256,
            names,
            skipped,
            [named[name] for name in left_out],
        )

    @property
    def has_new_head(self) -> bool:
        """Whether its head is none of the weights', but one of `from_pretrained(outputs=...)`."""
        return self.may_skip is not None and bool(getattr(self.model, "outputs", None))

    def skips(self, path: str) -> bool:
        """Whether the variable at this path stays fresh, or the weight of this name is left out."""
        return _found(self.skip, path) or _found(self.may_skip, path)

    def _renamed(self, name: str) -> str:
        for pattern, new in self.rename.items():
            name = re.sub(pattern, new, name)
        return name

    def _mismatch(self, missing: list[str], extra: list[str], wrong: dict[str, str]) -> str:
        parts = [
            f"no weights for {_listed(missing)}" if missing else "",
            f"no place for {_listed(extra)}" if extra else "",
            f"another shape or type: {_listed([f'{p} ({w})' for p, w in wrong.items()])}"
            if wrong
            else "",
        ]
        may_grow = hasattr(self.model, "vocab_size") and not self.grow_vocabulary
        larger = "; a larger vocabulary is grow_vocabulary=True" if may_grow else ""
        return (
            f"The weights of {self.weights.source} do not fit {name_of(self.model)}: "
            f"{'; '.join(filter(None, parts))}. Rename weights, rename={{pattern: new}}, or leave "
            f"parts of the model fresh, skip=pattern{larger}."
        )


Provider = Callable[[PretrainedModel, Mapping[str, Any]], Mapping[str, Any]]
"""What gives a pretrained model its arrays by path while its `init` runs."""


@contextmanager
def record_loaded(
    before: Sequence[Mapping[str, Any]] = (),
) -> Iterator[dict[PretrainedModel, Loaded]]:
    """What the pretrained models load whose `init` is called or traced in this context.

    `before` has the records of a run that has a checkpoint: where weights cannot be read any more,
    theirs is taken, and the model stays fresh until the checkpoint is restored.
    """
    found: dict[PretrainedModel, Loaded] = {}

    def provide(model: PretrainedModel, fresh: Mapping[str, Any]) -> Mapping[str, Any]:
        if model not in found:
            found[model] = _load_or_recall(model, fresh, before)
        return found[model].arrays

    with _set(_recorded, found), _set(_provider, provide):
        yield found


def _load_or_recall(
    model: PretrainedModel, fresh: Mapping[str, Any], before: Sequence[Mapping[str, Any]]
) -> Loaded:
    try:
        model.weights.arrays  # noqa: B018
    except Error:
        paths = set(fresh)
        fitting = (one for one in before if paths.issuperset({*one["names"], *one["fresh"]}))
        if (record := next(fitting, None)) is None:
            raise
        return Loaded({}, **record)
    return model.load(fresh)


def loaded_so_far() -> Mapping[PretrainedModel, Loaded]:
    """What has been loaded so far within `record_loaded`; nothing outside of it."""
    return _recorded.get()


@contextmanager
def leave_fresh() -> Iterator[None]:
    """Pretrained models stay fresh here, and no weights are read: for the shapes of a state."""
    with _set(_provider, lambda model, fresh: {}):
        yield


@contextmanager
def load_from(arrays: Mapping[PretrainedModel, Mapping[str, Array]]) -> Iterator[None]:
    """Pretrained models take their weights from `arrays`: the arguments of a compiled `init`."""
    with _set(_provider, lambda model, fresh: arrays[model]):
        yield


@contextmanager
def _set(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _load(model: PretrainedModel, fresh: Mapping[str, Any]) -> Mapping[str, Any]:
    return model.load(fresh).arrays


_provider: ContextVar[Provider] = ContextVar("provider", default=_load)
_recorded: ContextVar[Mapping[PretrainedModel, Loaded]] = ContextVar(
    "recorded", default=MappingProxyType({})
)


def _found(pattern: str | None, path: str) -> bool:
    return pattern is not None and re.search(pattern, path) is not None


def _may_load(path: str, leaf: Any) -> bool:
    """Whether a variable comes from weights: caches begin empty."""
    return hasattr(leaf, "shape") and path.partition("/")[0] != CACHE


def _fits(array: np.ndarray, leaf: Any) -> bool:
    return array.shape == leaf.shape and np.can_cast(array.dtype, leaf.dtype, "safe")


def _grown(array: np.ndarray, leaf: Any, vocabulary: int | None) -> np.ndarray:
    """The array with its mean for each new token, if the vocabulary's axis alone is longer."""
    differing = [
        axis
        for axis, (old, new) in enumerate(zip(array.shape, leaf.shape, strict=False))
        if old != new
    ]
    if array.ndim != len(leaf.shape) or len(differing) != 1 or not array.size:
        return array
    axis = differing[0]
    more = leaf.shape[axis] - array.shape[axis]
    if leaf.shape[axis] != vocabulary or more < 0:
        return array
    mean = array.mean(axis, keepdims=True, dtype=np.float32).astype(array.dtype)
    return np.concatenate([array, mean.repeat(more, axis)], axis)


def _describe(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
