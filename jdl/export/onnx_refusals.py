"""What cannot be converted to ONNX, found in a program before anything is installed or begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from jdl.export.program import Program, symbolic_shapes
from jdl.layers.platform import plain_implementations
from jdl.objectives.input_ranges import RANGE
from jdl.types import Array, DecodesTokens, Error, Objective


def check_convertible(program: Program, objective: Objective) -> None:
    """Raises `Error` where a program of an objective cannot become ONNX, with the reason.

    What no output needs is no reason: a random key, say.
    """
    if isinstance(objective, DecodesTokens):
        why = "decodes with a KV cache, and in ONNX its shapes, and the time, would be fixed"
    elif any(path.rpartition("/")[2] == RANGE for path in program.weights):
        why = "rounds what its layers read to 8 bits, where ONNX Runtime rounds to the other side"
    else:
        found = list(_equations(_needed(program)))
        why = next((why for is_so, why in REASONS if any(map(is_so, found))), "")
    if why:
        raise Error(
            f"The program {program.name} {why}. Export it to StableHLO, without --format: it runs "
            "wherever JAX does, and jdl serve serves it."
        )


def _has_key(equation: JaxprEqn) -> bool:
    variables = (*equation.invars, *equation.outvars)
    types = (getattr(variable.aval, "dtype", bool) for variable in variables)
    return any(jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) for dtype in types)


def _is_fourier(equation: JaxprEqn) -> bool:
    """A Fourier transform that is not one of products of matrices, as `power_spectrum` is there."""
    return equation.primitive.name == "fft"


def _is_backwards(equation: JaxprEqn) -> bool:
    return equation.primitive.name == "scan" and bool(equation.params["reverse"])


def _scatters_by_row(equation: JaxprEqn) -> bool:
    """A scatter in each row of the batch: `jax.vmap(lambda row, i: row.at[i].set(...))`."""
    numbers = equation.params.get("dimension_numbers")
    return equation.primitive.name.startswith("scatter") and bool(
        getattr(numbers, "operand_batching_dims", ())
    )


REASONS: tuple[tuple[Callable[[JaxprEqn], bool], str], ...] = (
    (_is_fourier, "has a Fourier transform, which is not converted for a batch of any size"),
    (_has_key, "draws random numbers, or a loop of it has a key for them, and ONNX has others"),
    (_is_backwards, "has a loop from the last step to the first, as the marginals of a CRF have"),
    (_scatters_by_row, "scatters into each row of a batch of any size, which is not converted"),
)
"""What an equation of a program may not be, and what is said of the program then."""


def _needed(program: Program) -> Jaxpr:
    """The equations that the outputs need, of JAX's own primitives; weights are arguments."""
    specs = symbolic_shapes(program.fixed_time())

    def outputs(weights: dict[str, Array], columns: dict[str, Array]) -> Any:
        return program.function(weights, columns)

    with plain_implementations():
        jaxpr = jax.make_jaxpr(outputs)(program.weights, specs).jaxpr
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return needed


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All equations, those within others too."""
    for equation in jaxpr.eqns:
        yield equation
        for one in jaxprs_in_params(equation.params):
            yield from _equations(one)
