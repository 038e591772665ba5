"""Exported models in memory: their programs with weights, found by name and version."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdl.data.tokenizers import ByteTokenizer, SubwordTokenizer
from jdl.export.folder import WEIGHTS, open_program, verify
from jdl.export.manifest import NAME, STABLEHLO, read_manifest, read_tokenizer
from jdl.export.program import TIME_AXIS
from jdl.serve.limits import RequestError
from jdl.types import Error
from jdl.weights.files import read_file

Columns = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class ServedProgram:
    """A program of an exported model with its weights on the device: inputs to outputs, by name."""

    name: str
    about: Mapping[str, Any]  # as the manifest has it: inputs, outputs, max_time
    weights: Mapping[str, jax.Array]
    call: Any  # jitted: compiled once for each shape of the inputs

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The outputs for inputs of the program's shapes and types."""
        return self.call(self.weights, dict(inputs))

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Shape and type of each input; "b" is the batch and "t" the time."""
        return self.about["inputs"]

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Shape and type of each output."""
        return self.about["outputs"]

    @property
    def max_time(self) -> int | None:
        """The largest time, where it is symbolic."""
        return self.about["max_time"] if self.timed else None

    @property
    def timed(self) -> list[str]:
        """The inputs whose second axis is the symbolic time."""
        return [name for name, about in self.inputs.items() if about["shape"][1:2] == [TIME_AXIS]]


@dataclass(frozen=True, eq=False)
class ServedModel:
    """An exported model that was verified: its manifest, its programs and its tokenizer."""

    folder: Path
    version: str  # the first 12 digits of the manifest's SHA-256, which covers every file
    manifest: Mapping[str, Any]
    programs: Mapping[str, ServedProgram]
    tokenizer: ByteTokenizer | SubwordTokenizer | None

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return self.manifest["name"]


def load_model(folder: Path | str) -> ServedModel:
    """Verifies an exported model and loads it; `Error` where a file or an answer has changed."""
    folder = Path(folder)
    if wrong := verify(folder):
        raise Error(f"{folder} is not served, as {'; '.join(wrong)}.")
    manifest = read_manifest(folder)
    if manifest["runtime"] != STABLEHLO:
        raise Error(f"{folder} is for ONNX Runtime: serve one exported to StableHLO, the default.")
    if not re.fullmatch(r"[\w.-]{1,100}", str(manifest["name"]), re.ASCII):
        raise Error(f"{folder}: {manifest['name']!r} cannot be a model's name in an address.")
    arrays = read_file(folder / WEIGHTS)
    used = {path for about in manifest["programs"].values() for path in about["weights"]}
    weights = {path: jax.device_put(arrays[path]) for path in sorted(used)}
    programs = {
        name: _program(folder, name, about, weights) for name, about in manifest["programs"].items()
    }
    version = hashlib.sha256((folder / NAME).read_bytes()).hexdigest()[:12]
    return ServedModel(folder, version, manifest, programs, read_tokenizer(folder, manifest))


def _program(
    folder: Path, name: str, about: Mapping[str, Any], weights: Mapping[str, jax.Array]
) -> ServedProgram:
    call, used = open_program(folder, about, weights)
    return ServedProgram(name, about, used, jax.jit(call))


@dataclass(frozen=True, eq=False)
class Models:
    """The models of a server. Of several versions of a name, the one given first is the default."""

    models: tuple[ServedModel, ...]

    def __post_init__(self) -> None:
        seen: dict[tuple[str, str], Path] = {}
        for model in self.models:
            key = model.name, model.version
            if key in seen:
                raise Error(f"{seen[key]} and {model.folder} are the same model: give it once.")
            seen[key] = model.folder
        if not self.models:
            raise Error("There is no model to serve: name a folder that `jdl export` wrote.")

    def named(self, name: str) -> list[ServedModel]:
        """All versions of a name, the default first."""
        found = [model for model in self.models if model.name == name]
        if not found:
            names = ", ".join(sorted({model.name for model in self.models}))
            raise RequestError(404, f"There is no model {name[:100]!r}; there are: {names}.")
        return found

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """A model by name and version, which is its digest or the name of its folder."""
        versions = self.named(name)
        if version is None:
            return versions[0]
        found = [m for m in versions if version in (m.version, m.folder.resolve().name)]
        if len(found) != 1:
            listed = ", ".join(model.version for model in versions)
            raise RequestError(
                404, f"{name} has no version {version[:100]!r} of its own; there are: {listed}."
            )
        return found[0]


def load_models(folders: Sequence[Path | str]) -> Models:
    """The exported models of several folders."""
    return Models(tuple(load_model(folder) for folder in folders))
