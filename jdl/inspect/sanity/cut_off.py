"""Why parameters get no gradient: the loss does not read them, or something on the way makes it 0.

What a function reads is told by its jaxpr, and not by its numbers: behind a dead ReLU, or between
weights that are all 0, parameters are read, and neither the loss nor its gradient shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from jdl.inspect.sanity.activations import RELU, STOP_GRADIENT, let_pass
from jdl.paths import by_path

NOISE = 0.1  # in place of weights that are all 0


@dataclass(frozen=True)
class CutOff:
    """The parameters that get no gradient, by the cause."""

    unused: tuple[str, ...] = ()  # the loss does not read them
    stopped: tuple[str, ...] = ()  # by a `stop_gradient`
    between_zeros: tuple[str, ...] = ()  # by weights that are all 0
    dead: tuple[str, ...] = ()  # by ReLUs that are 0 for all rows
    other: tuple[str, ...] = ()  # by an argmax, a comparison, ...
    zeros: tuple[str, ...] = ()  # the weights that are all 0

    @property
    def broken(self) -> tuple[str, ...]:
        """Those that the loss reads, and that nobody cut off on purpose."""
        return (*self.between_zeros, *self.dead, *self.other)


def reads(function: Callable[[Any], Any], tree: Any) -> dict[str, bool]:
    """For each leaf of a tree, by path, whether what a function computes of it depends on it."""
    jaxpr = jax.make_jaxpr(function)(tree).jaxpr
    read = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1]
    return dict(zip(by_path(tree), read, strict=True))


def cut_off(loss: Callable[[Any], Any], params: Any, paths: Collection[str]) -> CutOff:
    """Why the gradient of a loss is 0 in the parameters of these paths.

    The gradient is computed again without the one or the other cause: where it then is another, it
    was that cause. ReLUs are tried before `stop_gradient`: `let_pass` also undoes custom gradients
    such as `jax.nn.relu`'s, and a plain maximum has the gradient 1/2 at 0. Tried second, a dead
    ReLU would be taken for a `stop_gradient`.
    """
    if not paths:
        return CutOff()
    read = reads(loss, params)
    zeros = {path for path, x in by_path(params).items() if x.ndim > 1 and not np.any(x)}
    left = [path for path in paths if read[path]]

    def reached(loss: Callable[[Any], Any], at: Any) -> tuple[str, ...]:
        grads = by_path(jax.jit(jax.grad(loss))(at)) if left else {}
        found = tuple(path for path in left if np.any(np.asarray(grads[path])))
        left[:] = [path for path in left if path not in found]
        return found

    return CutOff(
        unused=tuple(path for path in paths if not read[path]),
        between_zeros=reached(loss, _with_noise(params, zeros)) if zeros else (),
        dead=reached(partial(let_pass, RELU, loss), params),
        stopped=reached(partial(let_pass, STOP_GRADIENT, loss), params),
        other=tuple(left),
        zeros=tuple(sorted(zeros)),
    )


def _with_noise(params: Any, paths: Collection[str]) -> Any:
    """The parameters with noise in those of these paths."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    noisy = [
        NOISE * jax.random.normal(key, leaf.shape, leaf.dtype) if path in paths else leaf
        for path, leaf, key in zip(by_path(params), leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)
