"""A trained run as a folder that predicts without jdl, its script and its data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.export
import numpy as np

from jdl.data.tokenizers import SubwordTokenizer
from jdl.export import table
from jdl.export.card import model_card
from jdl.export.example import Arrays, Example, difference
from jdl.export.generation import generate_example, language_examples
from jdl.export.manifest import (
    NAME,
    ONNX,
    STABLEHLO,
    TOKENIZER,
    make_manifest,
    read_manifest,
    tokenizer_of,
)
from jdl.export.onnx_programs import run_onnx, write_onnx
from jdl.export.onnx_refusals import check_convertible
from jdl.export.onnx_tools import onnx_tools
from jdl.export.predictions import predict_example
from jdl.export.saved_weights import SAVED_WEIGHTS, write_saved_weights
from jdl.inspect.predict import evaluation_data
from jdl.inspect.restore import TrainedRun, restore
from jdl.objectives.override import merge
from jdl.paths import by_path
from jdl.run import Run
from jdl.store.catalog import check_finished
from jdl.store.folder import new_folder, write_json
from jdl.store.manifest import hash_file
from jdl.types import DecodesTokens, Error, Predicts, SamplesLatents
from jdl.weights.files import read_file, write_safetensors

T = TypeVar("T")  # arrays, of the host or of a device
WEIGHTS, EXAMPLES, CARD, SCRIPT = (
    "weights.safetensors",
    "examples.safetensors",
    "README.md",
    "predict.py",
)
FOLDER = Path(__file__).parent / "scripts"
SCRIPTS = {"predict": SCRIPT, "prefill": "generate.py", "generate": "sample.py"}  # by program
LIBRARIES = ("flatbuffers", "safetensors")
FORMATS = (STABLEHLO, ONNX, SAVED_WEIGHTS)


def export(
    folder: Path | str,
    to: Path | str,
    run: Run | None = None,
    best: bool = False,
    anyway: bool = False,
    format: str = STABLEHLO,
) -> Path:
    """Exports a trained run: writes a new folder `to` that predicts without jdl.

    It has the objective's own predictions as StableHLO, for CPUs, GPUs and TPUs, the weights, a
    manifest with the hash of each file, a model card, and a script that needs jax, numpy,
    safetensors and flatbuffers alone. `run` and `best` are those of `jdl.restore`; `anyway` also
    takes a run that is not finished. Raises `Error` before anything is written where `to` exists,
    or the run cannot be exported; a folder that is there is complete and was checked.

    The `format` "onnx" has programs in ONNX instead, whose script needs onnxruntime and numpy
    alone; its converter, jax2onnx, is installed into jdl's cache on first use. "saved-weights" is a
    folder of Hugging Face, of a run whose model `jdl.weights.from_pretrained` made.
    """
    folder, to = Path(folder), Path(to)
    _check_place(to, format)
    check_finished(folder, anyway, "export")
    trained = restore(folder, run, best)
    examples = [] if format == SAVED_WEIGHTS else make_examples(trained)
    if format == ONNX:
        for example in examples:
            check_convertible(example.program, trained.objective)
        onnx_tools("jax2onnx")  # installs the converter, if need be
    with new_folder(to) as temporary:
        if format == SAVED_WEIGHTS:
            temporary.rmdir()  # it makes its own
            write_saved_weights(temporary, folder, trained)
        else:
            _write(temporary, folder, trained, examples, format)
    return to


def make_examples(trained: TrainedRun) -> list[Example]:
    """The programs of what a run's objective can do, each with its self-check."""
    objective, variables, run = trained.objective, trained.variables, trained.run
    examples: list[Example] = []
    if isinstance(objective, Predicts):
        examples.append(predict_example(objective, variables, evaluation_data(run)))
    if isinstance(objective, SamplesLatents):
        examples.append(generate_example(objective, variables, run.train))
    if isinstance(objective, DecodesTokens) and not examples:
        examples += language_examples(objective, variables, run.test or run.valid or run.train)
    if not examples:
        raise Error(
            f"{run.config.name} cannot be exported: its objective, {type(objective).__name__}, "
            "neither predicts nor generates."
        )
    return examples


def _check_place(to: Path, format: str) -> None:
    if format not in FORMATS:
        raise Error(f"There is no format {format}: choose one of {', '.join(FORMATS)}.")
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise Error(f"Exporting needs: pip install {' '.join(missing)}.")
    if to.exists():
        raise Error(f"{to} exists already: choose another folder, or delete it.")


def _write(
    temporary: Path, folder: Path, trained: TrainedRun, examples: Sequence[Example], runtime: str
) -> None:
    """Writes all files; the manifest, with the hashes of the others, is the last."""
    programs = [example.program for example in examples]
    used = {name for program in programs for name in program.weights}
    merged = by_path(merge(trained.objective, trained.variables)[1])
    weights = {name: np.asarray(merged[name]) for name in sorted(used)}
    manifest = make_manifest(folder, trained, examples, weights, runtime)
    for program in programs:
        path = temporary / manifest["programs"][program.name]["file"]
        if runtime == ONNX:
            write_onnx(program, weights, path)
        else:
            path.write_bytes(program.exported.serialize())
    if runtime == STABLEHLO:
        write_safetensors(temporary / WEIGHTS, weights)
    write_safetensors(temporary / EXAMPLES, _arrays(examples))
    tokenizer = tokenizer_of(trained.run)
    if isinstance(tokenizer, SubwordTokenizer):
        tokenizer.save(temporary / TOKENIZER)
    scripts = [SCRIPTS[program.name] for program in programs if program.name in SCRIPTS]
    for source, target in zip(scripts, (SCRIPT, *scripts[1:]), strict=True):
        shutil.copy(FOLDER / source, temporary / target)
    if manifest["table"]:
        shutil.copy(table.__file__, temporary)
    differences = _differences(temporary, manifest)
    wrong = {n: d for n, d in differences.items() if not d <= manifest["check"]["tolerance"]}
    if wrong:
        raise Error(
            f"The exported program computes something else than the run: its answers differ by "
            f"{max(wrong.values()):.2g} of the largest. Please report this."
        )
    manifest["check"]["differences"] = differences
    (temporary / CARD).write_text(model_card(manifest), "utf-8")
    files = sorted(path for path in temporary.iterdir())
    write_json(
        temporary / NAME, manifest | {"files": {path.name: hash_file(path) for path in files}}
    )


def _arrays(examples: Sequence[Example]) -> Arrays:
    """The arrays of the examples by program, side and name: "predict/inputs/x"."""
    return {
        f"{example.program.name}/{side}/{name}": array
        for example in examples
        for side, columns in (("inputs", example.inputs), ("outputs", example.outputs))
        for name, array in columns.items()
    }


def verify(folder: Path | str) -> list[str]:
    """What is wrong with an exported model, in sentences; none where all is as it was exported.

    The hash of each file is computed again, and each program's answer to its examples. On the
    platform, versions and kind of machine of the export they are the same bits; elsewhere they may
    differ by rounding. Raises `Error` for a folder that is no exported model, or
    is of a newer format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    wrong = [
        problem
        for name, sha in manifest["files"].items()
        if (problem := _damage(folder, name, sha))
    ]
    if wrong:
        return wrong
    tolerance = manifest["check"]["tolerance"]
    return [
        f"the program {name} answers its examples otherwise than when it was exported: they differ "
        f"by {found:.2g} of the largest number, and at most {tolerance:g} is rounding"
        for name, found in _differences(folder, manifest).items()
        if not found <= tolerance
    ]


def _damage(folder: Path, name: str, sha256: str) -> str | None:
    path = folder / name
    if Path(name).name != name or not path.is_file():
        return f"{name} is missing"
    return None if hash_file(path) == sha256 else f"{name} has changed since it was exported"


def _differences(folder: Path, manifest: Mapping[str, Any]) -> dict[str, float]:
    """How much each program's answer to its examples differs from the run's, as a share."""
    arrays, found = read_file(folder / EXAMPLES), {}
    for name, about in manifest["programs"].items():
        inputs, outputs = (
            {
                key.removeprefix(prefix): array
                for key, array in arrays.items()
                if key.startswith(prefix)
            }
            for prefix in (f"{name}/inputs/", f"{name}/outputs/")
        )
        if manifest["runtime"] == ONNX:
            answer = run_onnx(folder / about["file"], inputs, about["outputs"])
        else:
            call, weights = open_program(folder, about, read_file(folder / WEIGHTS))
            answer = jax.jit(call)(weights, inputs)
        found[name] = difference(outputs, answer)
    return found


def open_program(
    folder: Path, about: Mapping[str, Any], weights: Mapping[str, T]
) -> tuple[Callable[..., Any], dict[str, T]]:
    """A program of an exported model, as a function of weights and inputs, and its own weights.

    `about` is what the manifest says of it, and `weights` those of the whole model, by name.
    """
    exported = jax.export.deserialize(bytearray((folder / about["file"]).read_bytes()))
    return exported.call, {name: weights[name] for name in about["weights"]}
