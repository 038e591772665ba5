"""Programs as ONNX: converted by jax2onnx, and run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from jdl.errors import first_line
from jdl.export.onnx_tools import onnx_tools
from jdl.export.program import Program, Specs, symbolic_shapes
from jdl.layers.platform import plain_implementations
from jdl.types import Array, Error


def write_onnx(program: Program, weights: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes a program with its weights as an ONNX file; large weights lie in a file beside it.

    A batch is of any size, and the time is the program's longest. Raises `Error` where jax2onnx
    cannot convert it.
    """
    specs = symbolic_shapes(program.fixed_time())
    names = list(specs)
    traced = _traced(program, weights, specs)
    jax2onnx = onnx_tools("jax2onnx")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            _originals_afterwards(),
            _symbolic_dimensions(),
            _select_of_booleans(),
            jax.numpy_dtype_promotion("standard"),  # its own arithmetic is of several types
            jax.numpy_rank_promotion("allow"),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            jax2onnx.to_onnx(
                jaxpr_as_fun(traced),
                [specs[name] for name in names],
                model_name=program.name,
                input_names=names,
                output_names=[  # where an input has the name, it is taken
                    f"{name}_out" if name in names else name for name in program.outputs
                ],
                return_mode="file",
                output_path=path,
            )
    except Exception as error:  # a converter of each primitive raises any exception
        raise Error(
            f"The program {program.name} cannot be converted to ONNX by jax2onnx, but it can be "
            f"exported to StableHLO, without --format. {first_line(error)}."
        ) from error
    finally:
        logging.disable(level)


def _traced(program: Program, weights: Mapping[str, np.ndarray], specs: Specs) -> ClosedJaxpr:
    """The program's outputs as a function of its inputs, of JAX's own primitives.

    Traced by jax2onnx itself, it would have the functions that jax2onnx puts in place of JAX's,
    and some of them cannot do what JAX's can, for a batch of any size.
    """
    given = {name: jnp.asarray(weights[name]) for name in program.weights}

    def of_columns(*columns: Array) -> tuple[Array, ...]:
        outputs = program.function(given, dict(zip(specs, columns, strict=True)))
        # Copies: two outputs that are one array would be one output.
        return tuple(jnp.copy(outputs[name]) for name in program.outputs)

    with plain_implementations():
        traced = jax.make_jaxpr(of_columns)(*specs.values())
    # Without what no output needs: a random key, say.
    needed, _ = dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars), instantiate=True)
    return ClosedJaxpr(needed, traced.consts)


@contextlib.contextmanager
def _symbolic_dimensions() -> Iterator[None]:
    """Lets shapes of ONNX have JAX's symbolic dimensions, by their names.

    Such a dimension can be asked for its number, as an integer can, and raises an exception.
    """
    core = importlib.import_module("onnx_ir._core")  # which jax2onnx has imported
    original = core._maybe_convert_to_symbolic_dim

    def by_name(n: Any) -> Any:
        return original(str(n) if jax.export.is_symbolic_dim(n) else n)

    vars(core)[original.__name__] = by_name
    try:
        yield
    finally:
        vars(core)[original.__name__] = original


@contextlib.contextmanager
def _select_of_booleans() -> Iterator[None]:
    """Lets jax2onnx convert a `jnp.where` of booleans, as in a causal mask.

    ONNX Runtime has none of booleans, so they are whole numbers meanwhile.
    """
    importlib.import_module("jax2onnx.plugins.jax.lax.select_n")  # registers what converts it
    registry = importlib.import_module("jax2onnx.plugins.plugin_system").PLUGIN_REGISTRY
    original = registry["select_n"]
    registry["select_n"] = _Select(original)
    try:
        yield
    finally:
        registry["select_n"] = original


@dataclass(frozen=True)
class _Select:
    """Converts the primitive `select_n`."""

    original: Any

    def lower(self, ctx: Any, eqn: Any) -> None:
        """Adds its nodes to the graph that is built."""
        (out,) = eqn.outvars
        if out.aval.dtype != bool or len(eqn.invars) != 3:
            self.original.lower(ctx, eqn)
            return
        ir = importlib.import_module("onnx_ir")

        def node(kind: str, type_: Any, variable: Any, *values: Any, **attributes: int) -> Any:
            name = ctx.fresh_name(f"select_{kind.lower()}")
            value = getattr(ctx.builder, kind)(*values, _outputs=[name], **attributes)
            value.type, value.shape = ir.TensorType(type_), ir.Shape(variable.aval.shape)
            return value

        values = [ctx.get_value_for_var(v, name_hint=ctx.fresh_name("case")) for v in eqn.invars]
        number, boolean = ir.DataType.INT32, ir.DataType.BOOL
        no, yes = (
            node("Cast", number, variable, value, to=number.value)
            for variable, value in zip(eqn.invars[1:], values[1:], strict=True)
        )
        chosen = node("Where", number, out, values[0], yes, no)
        ctx.bind_value_for_var(out, node("Cast", boolean, out, chosen, to=boolean.value))


@contextlib.contextmanager
def _originals_afterwards() -> Iterator[None]:
    """Puts back the functions of JAX and Flax that jax2onnx replaces and leaves replaced.

    Its `jnp.cumsum`, say, takes no axis by position.
    """
    classes = [c for module in (nn, nnx) for c in vars(module).values() if isinstance(c, type)]
    owners: list[Any] = [jnp, jax.lax, jax.nn, nn, nnx, *classes]
    originals = [(owner, dict(vars(owner))) for owner in owners]
    try:
        yield
    finally:
        for owner, functions in originals:
            for name, function in functions.items():
                if vars(owner).get(name) is not function:
                    setattr(owner, name, function)


def run_onnx(
    path: Path, inputs: Mapping[str, np.ndarray], outputs: Iterable[str]
) -> dict[str, np.ndarray]:
    """The answers of ONNX Runtime on a CPU, by the names of the program's `outputs`, in order.

    Raises `Error` where it refuses the file.
    """
    onnxruntime = onnx_tools("onnxruntime")
    onnxruntime.set_default_logger_severity(3)  # errors alone: it warns of names without use
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        answers = session.run(None, dict(inputs))
    except Exception as error:  # its exceptions have no common class
        raise Error(f"ONNX Runtime cannot run {path.name}: {first_line(error)}.") from error
    return dict(zip(outputs, answers, strict=True))
