"""A hash of what a run computes: the trace (jaxpr) of its initial state and of a training step.

When a run goes on of which no code is kept, it shows that the code has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from jdl.objectives.pretrained_model import leave_fresh
from jdl.run import Run
from jdl.types import Batch, Key, Metrics, State

LARGEST = 2**20  # bytes of a constant whose values are hashed


def program_hash(run: Run) -> str:
    """SHA-256 of the trace of a run whose learner is of `trace_once`, so that nothing is traced.

    The text of a trace depends on the versions of the libraries: compare it where they are equal.
    """
    learner = run.learner

    def first_step(key: Key, batch: Batch) -> tuple[State, Metrics]:
        return learner.step(learner.init(key, batch), batch)

    key = jax.eval_shape(jax.random.key, 0)
    with leave_fresh():  # pretrained weights have a hash of their own in the record
        closed = jax.make_jaxpr(first_step)(key, run.train.spec)
    digest = hashlib.sha256(str(closed).encode())  # JAX leaves out addresses
    for constant in _constants(closed):
        digest.update(constant)
    return digest.hexdigest()


def _constants(closed: ClosedJaxpr) -> Iterator[bytes]:
    """The bytes of the arrays that a trace has as constants: its text has their shapes alone."""
    for value in closed.consts:
        is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        array = jax.random.key_data(value) if is_key else value
        if array.nbytes <= LARGEST and getattr(array, "is_fully_addressable", True):
            yield np.asarray(array).tobytes()
    for equation in closed.jaxpr.eqns:
        for inner in jax.tree.leaves(equation.params, is_leaf=_is_closed):
            if _is_closed(inner):
                yield from _constants(inner)


def _is_closed(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr)
