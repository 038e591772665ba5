"""Which inputs an output of a pure function copies or depends on: for bounds after transforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend.core import Jaxpr, Literal

CALLS = ("jit", "pjit")  # primitives that only call the jaxpr in them


@dataclass(frozen=True)
class Dependence:
    """The inputs that the value of a variable depends on."""

    inputs: frozenset[int] = frozenset()  # all inputs that it may depend on, by position
    copy_of: int | None = None  # the input that it is always equal to, if there is one


CONSTANT = Dependence()


def dependences(jaxpr: Jaxpr, inputs: Sequence[Dependence] | None = None) -> list[Dependence]:
    """Of each output of a jaxpr, the inputs that it depends on, and which one it is a copy of.

    Conservative: an operation is assumed to depend on everything it reads, and an output counts as
    a copy only where no operation lies between.
    """
    if inputs is None:
        inputs = [Dependence(frozenset([n]), n) for n in range(len(jaxpr.invars))]
    known: dict[Any, Dependence] = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(atom: Any) -> Dependence:
        return CONSTANT if isinstance(atom, Literal) else known.get(atom, CONSTANT)

    for equation in jaxpr.eqns:
        reads = [of(atom) for atom in equation.invars]
        if equation.primitive.name in CALLS:
            results = dependences(equation.params["jaxpr"].jaxpr, reads)
        else:
            every = frozenset[int]().union(*(read.inputs for read in reads))
            results = [Dependence(every)] * len(equation.outvars)
        known.update(zip(equation.outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]
