"""Tensors of the Open Inference Protocol (v2), of KServe and Triton: JSON, or bytes after it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jdl.serve.answers import as_list, to_json
from jdl.serve.inputs import Take, check_columns, from_lists, is_shape, listed, parse_json
from jdl.serve.limits import Limits, RequestError
from jdl.serve.models import Columns, ServedProgram

DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
OF_DTYPE = {dtype: name for name, dtype in DATATYPES.items()} | {"bfloat16": "FP32"}


def described(specs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Inputs or outputs as the protocol describes them: -1 is a dimension of any size."""
    return [
        {
            "name": name,
            "datatype": OF_DTYPE[about["dtype"]],
            "shape": [size if isinstance(size, int) else -1 for size in about["shape"]],
        }
        for name, about in specs.items()
    ]


def read_inference(
    header: str | None, body: bytes, program: ServedProgram, limits: Limits, take: Take
) -> tuple[dict[str, Any], Columns]:
    """The document of a request, and its tensors as columns; `header` is how long the JSON is."""
    if header is not None and not (
        header.isdecimal() and len(header) <= 20 and int(header) <= len(body)
    ):
        raise RequestError(400, "Inference-Header-Content-Length is not a length of this body.")
    end = len(body) if header is None else int(header)
    document = parse_json(body[:end])
    tensors = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(tensors, list) or not all(isinstance(t, dict) for t in tensors):
        raise RequestError(422, "The body must be an object with a list of objects, inputs.")
    columns: Columns = {}
    for tensor in tensors:
        name, shape, dtype = _spec(tensor)
        if name in columns:
            raise RequestError(422, f"The input {name[:100]!r} is there twice.")
        parameters = tensor.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            columns[name] = _of_json(name, tensor.get("data"), shape, dtype)
        else:
            columns[name], end = _of_bytes(name, body, end, size, shape, dtype)
    return document, check_columns(columns, program, limits, take)


def _spec(tensor: dict[str, Any]) -> tuple[str, list[int], np.dtype]:
    """The name, shape and type of a tensor."""
    name, shape, datatype = (tensor.get(key) for key in ("name", "shape", "datatype"))
    if not isinstance(name, str):
        raise RequestError(422, "An input must have a name.")
    if not isinstance(shape, list) or not is_shape(shape):
        raise RequestError(422, f"The shape of {name[:100]!r} must be a list of sizes.")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise RequestError(
            422, f"The datatype of {name[:100]!r} must be one of {listed(DATATYPES)}."
        )
    return name, shape, np.dtype(DATATYPES[datatype])


def _of_json(name: str, data: Any, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """A tensor of the numbers of a JSON list, nested or flat."""
    if not isinstance(data, list):
        raise RequestError(422, f"The data of {name[:100]!r} must be a list.")
    values = from_lists(name[:100], data, dtype)
    if values.size != math.prod(shape):
        raise RequestError(
            422, f"{name[:100]} has {values.size:,} numbers, not those of the shape {shape}."
        )
    return values.reshape(shape)


def _of_bytes(
    name: str, body: bytes, start: int, size: Any, shape: Sequence[int], dtype: np.dtype
) -> tuple[np.ndarray, int]:
    """A tensor of the bytes that follow the JSON, and where they end."""
    expected = math.prod(shape) * dtype.itemsize
    if size != expected or start + expected > len(body):
        raise RequestError(
            422, f"{name[:100]} must have {expected:,} bytes after the JSON, of the shape {shape}."
        )
    data = np.frombuffer(body, dtype.newbyteorder("<"), math.prod(shape), start)
    return data.reshape(shape).astype(dtype, copy=False), start + expected


def write_inference(
    document: dict[str, Any], about: dict[str, Any], outputs: Columns
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer and its headers: tensors as JSON, or as bytes where these are asked."""
    wanted, binary = _wanted(document, outputs)
    tensors, parts = [], []
    for name in wanted:
        values = outputs[name]
        if str(values.dtype) not in OF_DTYPE or values.dtype.kind not in "biuf":
            values = values.astype(np.float32)
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": OF_DTYPE[str(values.dtype)],
            "shape": list(values.shape),
        }
        if binary[name]:
            parts.append(np.ascontiguousarray(values).tobytes())
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            tensor["data"] = as_list(values.ravel())
        tensors.append(tensor)
    head = to_json(about | {"outputs": tensors})
    if not parts:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream"}
    return b"".join([head, *parts]), headers | {"Inference-Header-Content-Length": str(len(head))}


def _wanted(document: dict[str, Any], outputs: Iterable[str]) -> tuple[list[str], dict[str, bool]]:
    """The names of the outputs that a request asks for, all by default; and which in bytes."""
    asked, names = document.get("outputs"), list(outputs)
    parameters = document.get("parameters")
    every = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    if not asked:
        return names, dict.fromkeys(names, every)
    if not isinstance(asked, list) or not all(
        isinstance(one, dict) and one.get("name") in names for one in asked
    ):
        raise RequestError(422, f"outputs must be a list of objects whose names are of {names}.")
    binary = {}
    for one in asked:
        own = one.get("parameters")
        given = own.get("binary_data") if isinstance(own, dict) else None
        binary[one["name"]] = every if given is None else given is True
    return list(binary), binary
