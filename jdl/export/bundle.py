"""A trained run as a folder that predicts without jdl, its script and its data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from jdl.data.tokenizers import SubwordTokenizer
from jdl.export.card import model_card
from jdl.export.example import Arrays, Example, difference
from jdl.export.generation import generate_example, language_examples
from jdl.export.manifest import NAME, TOKENIZER, file_of, make_manifest, read_manifest
from jdl.export.predictions import predict_example
from jdl.export.program import by_name
from jdl.inspect.predict import evaluation_data
from jdl.inspect.restore import TrainedRun, restore
from jdl.store.catalog import check_finished
from jdl.store.folder import write_json
from jdl.store.manifest import hash_file
from jdl.types import DecodesTokens, Error, Predicts, Run, SamplesLatents
from jdl.weights.files import read_file, write_safetensors

WEIGHTS, EXAMPLES, CARD, SCRIPT = (
    "weights.safetensors",
    "examples.safetensors",
    "README.md",
    "predict.py",
)
FOLDER = Path(__file__).parent / "scripts"
SCRIPTS = {"predict": SCRIPT, "prefill": "generate.py", "generate": "sample.py"}  # by program
LIBRARIES = ("flatbuffers", "safetensors")


def export(
    folder: Path | str,
    to: Path | str,
    run: Run | None = None,
    best: bool = False,
    anyway: bool = False,
) -> Path:
    """Exports a trained run: writes a new folder `to` that predicts without jdl.

    It has the objective's own predictions as StableHLO, for CPUs, GPUs and TPUs, the weights, a
    manifest with the hash of each file, a model card, and a script that needs jax, numpy,
    safetensors and flatbuffers alone. `run` and `best` are those of `jdl.restore`; `anyway` also
    takes a run that is not finished. Raises `Error` before anything is written where `to` exists,
    or the run cannot be exported; a folder that is there is complete and was checked.
    """
    folder, to = Path(folder), Path(to)
    _check_place(to)
    check_finished(folder, anyway, "export")
    trained = restore(folder, run, best)
    examples = make_examples(trained)
    temporary = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        _write(temporary, folder, trained, examples)
        temporary.rename(to)
    except OSError as error:
        raise Error(f"{to} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
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


def _check_place(to: Path) -> None:
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise Error(f"Exporting needs: pip install {' '.join(missing)}.")
    if to.exists():
        raise Error(f"{to} exists already: choose another folder, or delete it.")


def _write(temporary: Path, folder: Path, trained: TrainedRun, examples: Sequence[Example]) -> None:
    """Writes all files; the manifest, with the hashes of the others, is the last."""
    programs = [example.program for example in examples]
    for program in programs:
        path = temporary / file_of(program, len(programs))
        path.write_bytes(program.exported.serialize())
    used = {name for program in programs for name in program.weights}
    weights = by_name(trained.variables)
    write_safetensors(
        temporary / WEIGHTS, {name: np.asarray(weights[name]) for name in sorted(used)}
    )
    write_safetensors(temporary / EXAMPLES, _arrays(examples))
    tokenizer = trained.run.tokenizer
    if isinstance(tokenizer, SubwordTokenizer):
        tokenizer.save(temporary / TOKENIZER)
    scripts = [SCRIPTS[program.name] for program in programs if program.name in SCRIPTS]
    for source, target in zip(scripts, (SCRIPT, *scripts[1:]), strict=True):
        shutil.copy(FOLDER / source, temporary / target)
    manifest = make_manifest(folder, trained, examples, {})
    differences = _differences(temporary, manifest)
    wrong = {n: d for n, d in differences.items() if d > manifest["check"]["tolerance"]}
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
    differ by rounding. Raises `Error` for a folder that is none, or of a newer format.
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
    weights, arrays = read_file(folder / WEIGHTS), read_file(folder / EXAMPLES)
    found = {}
    for name, about in manifest["programs"].items():
        exported = jax.export.deserialize(bytearray((folder / about["file"]).read_bytes()))
        inputs, outputs = (
            {
                key.removeprefix(prefix): array
                for key, array in arrays.items()
                if key.startswith(prefix)
            }
            for prefix in (f"{name}/inputs/", f"{name}/outputs/")
        )
        used = {path: weights[path] for path in about["weights"]}
        found[name] = difference(outputs, jax.jit(exported.call)(used, inputs))
    return found
