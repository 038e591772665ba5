"""Deep stacks of layers: unrolled, or as one scan over layers, and gradient checkpointing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import LazyRng, subtract_filters
from flax.errors import InvalidRngError
from flax.linen.module import _global_interceptor_stack as interceptors
from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.errors import Error
from jdl.layers.fully_sharded import ungathered

SOWN = "intermediates"


def apply_layers(
    module: nn.Module,
    layer: type[nn.Module],
    fields: Sequence[Mapping[str, Any]],
    x: jax.Array,
    *args: Any,
    remat: bool | str = False,
    scan: bool = False,
) -> jax.Array:
    """A deep stack: applies a `layer` of each of the `fields` in turn, named block_0, block_1, ...

    Within a compact method of `module`. Each layer takes x and `args`, and gives the next one's x.
    `remat` (gradient checkpointing) recomputes activations in the backward pass: all of them, or
    those that this policy of `jax.checkpoint_policies` does not store.

    With `scan` (scan over layers, `jax.lax.scan`) the program has one layer in a loop, which is
    traced once. Parameters keep their names and shapes: they are stacked at the beginning of each
    step, which costs a copy of them, so nothing that reads a checkpoint, a pattern of names or
    pretrained weights knows of it, and each optimizer sees one matrix at a time. Where parameters
    are fully sharded (FSDP), each layer's are gathered in the loop, and its gradients divided there
    (reduce-scatter), which is what it is for.

    Layers run unrolled all the same, with the same numbers, where a loop would hide them: in
    initialization, within `flax.linen.intercept_methods`, and where they have other variables than
    parameters, such as a KV cache; and where the stack is itself in a layer of a scan. What they
    `sow` as "intermediates" is kept as it is when they are unrolled. Their random numbers are of
    `make_key`, as those of `Dropout`. The loss has the bits of unrolled layers, and gradients
    differ by rounding (docs/devices.md). Raises `Error` for a scan of layers whose fields differ,
    that draw by `make_rng`, sow something else, or give an x of another shape or type.
    """
    names = [f"block_{n}" for n in range(len(fields))]
    if scan and any(each != fields[0] for each in fields):
        raise Error("scan is for layers that are all alike, and these differ: leave it out.")
    if scan and _layer_keys.get() is None and (params := _stackable(module, names)):
        return _scan(module, layer(**fields[0], parent=None), params, x, args, remat)
    if remat:
        static = tuple(2 + n for n, arg in enumerate(args) if isinstance(arg, bool))
        layer = nn.remat(layer, static_argnums=static, policy=_policy(remat))
    for name, each in zip(names, fields, strict=True):
        x = layer(**each, name=name)(x, *args)
    return x


def make_key(module: nn.Module, *streams: str) -> jax.Array:
    """The random key of the first of these streams that is given: `make_rng`, also in a scan.

    In a scan over layers it is that of the layer which the loop is at.
    """
    if (keys := _layer_keys.get()) is not None:
        return keys.make(module, next((s for s in streams if s in keys.rngs), streams[-1]))
    return module.make_rng(next((s for s in streams if module.has_rng(s)), streams[-1]))


_layer_keys: ContextVar[_LayerKeys | None] = ContextVar("layer_keys", default=None)


@dataclass(frozen=True)
class _LayerKeys:
    """The keys that Flax would make in each of a stack's layers, of which the loop is at one."""

    rngs: Mapping[str, LazyRng]  # of the module with the stack, by stream
    names: Sequence[str]  # of its layers
    layer: jax.Array  # number of the layer
    made: dict[tuple[str, ...], int]  # keys that were made before, by module and stream

    def make(self, module: nn.Module, stream: str) -> jax.Array:
        """The next key of the module's stream, in the layer."""
        if stream not in self.rngs:
            return module.make_rng(stream)  # Flax says what is missing
        count = self.made[*module.path, stream] = self.made.get((*module.path, stream), 0) + 1
        rng = self.rngs[stream]
        data = [_digest((*rng.suffix, name, *module.path, count)) for name in self.names]
        return jax.random.fold_in(rng.rng, jnp.asarray(data, jnp.uint32)[self.layer])

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A context in which `make_key` makes these."""
        token = _layer_keys.set(self)
        try:
            yield
        finally:
            _layer_keys.reset(token)


def _digest(path: tuple[str | int, ...]) -> int:
    """What Flax folds into a key for a path of names and a count, so that both forms have one."""
    sha = hashlib.sha1()
    for part in path:
        if flax.config.flax_fix_rng_separator:
            sha.update(b"\00")
        if isinstance(part, int):
            sha.update(part.to_bytes((part.bit_length() + 7) // 8, "big"))
        else:
            sha.update(part.encode())
    return int.from_bytes(sha.digest()[:4], "big")


def _policy(remat: bool | str) -> Any:
    return getattr(jax.checkpoint_policies, remat) if isinstance(remat, str) else None


def _stackable(module: nn.Module, names: Sequence[str]) -> list[Any] | None:
    """The parameters of the layers, if they can run in a loop; None where they must not."""
    variables = module.variables
    more = {name for col in variables if col not in ("params", SOWN) for name in variables[col]}
    params = [variables.get("params", {}).get(name) for name in names]
    alike = {str(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each)) for each in params}
    if module.is_initializing() or interceptors or more & {*names} or len(alike) != 1:
        return None
    return params


def _in_scan(apply: Callable[[Any], Any], variables: Any) -> tuple[Any, Mapping[str, Any]]:
    """Applies a layer within a scan."""
    try:
        return apply(variables)
    except InvalidRngError as error:
        raise Error(
            f"A layer of a scan draws random numbers by make_rng: {error} Let it draw by "
            "jdl.layers.make_key, as jdl.layers.Dropout does, or leave scan out."
        ) from error


def _check_carry(before: jax.Array, after: Any) -> None:
    """Raises `Error` where a layer of a scan does not give what it gets."""
    given, got = (
        jax.tree.map(lambda leaf: (str(leaf.dtype), leaf.shape), x) for x in (before, after)
    )
    if given != got:
        raise Error(
            f"A layer of a scan gets {given} and gives {got}: make them alike, or leave scan out."
        )


def _intermediates(changed: Mapping[str, Any]) -> Any:
    """What a layer has sown as intermediates; `Error` for what a scan would lose."""
    if other := sorted(changed.keys() - {SOWN}):
        raise Error(f"A layer of a scan changes {other[0]!r}, which would be lost: leave scan out.")
    sown = changed.get(SOWN, {})
    if not all(isinstance(value, tuple) for value in flatten_dict(sown).values()):
        raise Error("A layer of a scan sows with a reduce_fn of its own: leave scan out.")
    return sown


def _scan(
    module: nn.Module,
    layer: nn.Module,
    params: list[Any],
    x: jax.Array,
    args: tuple[Any, ...],
    remat: bool | str,
) -> jax.Array:
    """The layers as one `jax.lax.scan`."""
    scope, names = module.scope, [f"block_{n}" for n in range(len(params))]
    assert scope is not None
    mutable = subtract_filters(scope.mutable, "params")
    params, gather = ungathered(params)

    def body(x: jax.Array, each: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        keys = _LayerKeys(scope.rngs, names, each[0], {})
        with keys.in_use():
            apply = flax.core.apply(lambda s: layer.clone(parent=s)(x, *args), mutable)
            out, changed = _in_scan(apply, {"params": gather(each[1])})
        _check_carry(x, out)
        return out, _intermediates(changed)

    if remat:
        body = jax.checkpoint(body, policy=_policy(remat), prevent_cse=False)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    x, sown = jax.lax.scan(body, x, (jnp.arange(len(names)), stacked))
    for n, name in enumerate(names if sown else ()):
        before = flatten_dict(module.get_variable(SOWN, name, {}))
        new = flatten_dict(jax.tree.map(lambda leaf, n=n: leaf[n], sown))
        both = {path: before.get(path, ()) + value for path, value in new.items()}
        module.put_variable(SOWN, name, unflatten_dict(both))
    return x
