"""Programs as ONNX: converted by jax2onnx, and run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from jdl.export.onnx_tools import onnx_tools
from jdl.export.program import Program, first_line, symbolic_shapes
from jdl.layers.platform import plain_implementations
from jdl.types import Array, Error


def write_onnx(program: Program, weights: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes a program with its weights as an ONNX file; large weights lie in a file beside it.

    A batch is of any size, and the time is the program's longest. Raises `Error` where jax2onnx
    cannot convert it.
    """
    specs = symbolic_shapes(program.fixed_time())
    names, given = list(specs), {name: jnp.asarray(weights[name]) for name in program.weights}

    def of_columns(*columns: Array) -> tuple[Any, ...]:
        outputs = program.function(given, dict(zip(names, columns, strict=True)))
        # Copies: two outputs that are one array would be one output.
        return tuple(jnp.copy(outputs[name]) for name in program.outputs)

    jax2onnx = onnx_tools("jax2onnx")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            _originals_afterwards(),
            plain_implementations(),
            jax.numpy_dtype_promotion("standard"),  # its own arithmetic is of several types
            jax.numpy_rank_promotion("allow"),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            jax2onnx.to_onnx(
                of_columns,
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
            f"exported to StableHLO, without --format. {first_line(error)}"
        ) from error
    finally:
        logging.disable(level)


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
        raise Error(f"ONNX Runtime cannot run {path.name}: {first_line(error)}") from error
    return dict(zip(outputs, answers, strict=True))
