"""The manifest of an exported model: what its programs take and give, and where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.data.augment import Normalize
from jdl.data.csv_file import CsvFile
from jdl.data.dialogues import ROLES
from jdl.data.encoding import FIRST
from jdl.data.loader import DatasetLoader
from jdl.data.table import TableDataset
from jdl.data.tokenizers import ByteTokenizer, SubwordTokenizer, load_tokenizer
from jdl.export.example import Example
from jdl.export.generation import has_normal_prior
from jdl.export.program import Program, Specs
from jdl.figures.samples import num_classes
from jdl.image_bytes import is_image
from jdl.inspect.restore import TrainedRun
from jdl.run import Run
from jdl.store import log
from jdl.store.checkpoints import state_digest
from jdl.store.environment import fingerprint
from jdl.store.folder import read_description, read_json
from jdl.store.record import read_record
from jdl.types import Error, Tokenizer

FORMAT = 1  # of exported folders; increased when older readers can no longer read them
NAME = "manifest.json"
TOKENIZER = "tokenizer.json"
STABLEHLO, ONNX = "stablehlo", "onnx"  # the formats of programs
NORMAL = "standard normal"  # the prior of latents z
SUFFIX = {STABLEHLO: ".jaxexport", ONNX: ".onnx"}
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}  # by precision, of other devices
ONNX_TOLERANCE = 1e-5  # of float32, on a CPU


def make_manifest(
    folder: Path,
    trained: TrainedRun,
    examples: Sequence[Example],
    weights: Mapping[str, np.ndarray],
    runtime: str,
) -> dict[str, Any]:
    """The manifest of an exported run, but for its check and the hashes of the files."""
    run, record = trained.run, read_record(folder)
    return {
        "format": FORMAT,
        "name": run.config.name,
        "description": _description(folder, record),
        "runtime": runtime,
        "objective": type(trained.objective).__name__,
        "programs": {
            example.program.name: _program(example, len(examples), run, runtime)
            for example in examples
        },
        "weights": _bytes(weights),
        "labels": list(run.labels),
        "tokenizer": _tokenizer(run),
        "chat": _chat(run),
        "table": _table(run),
        "max_length": getattr(trained.objective, "max_length", None),
        "preprocessing": _preprocessing(run),
        "config": record["config"],
        "seed": record["seed"],
        "step": trained.step,
        "results": _results(folder, trained.step),
        "cost": _cost(folder),
        "digests": {
            "config": record["digest"],
            "state": state_digest(trained.state),
            "data": record["data"],
            "pretrained": [
                {name: one[name] for name in ("source", "sha256") if name in one}
                for one in record.get("pretrained") or []
            ],
        },
        "data": _data(run),
        "trained": record["environment"],
        "exported": fingerprint(),
        "check": {
            "platform": jax.default_backend(),
            "tolerance": _tolerance(run.config.precision, runtime),
            "differences": {},
        },
    }


def _table(run: Run) -> dict[str, Any] | None:
    """How rows of the run's table are encoded (`jdl.export.table`); None: its data are no table."""
    data = run.test or run.valid or run.train
    dataset = data.dataset if isinstance(data, DatasetLoader) else None
    if not isinstance(dataset, TableDataset):
        return None
    table, encoding = dataset.source.table, dataset.encoding
    source = table.sources[0]
    csv = source if isinstance(source, CsvFile) else CsvFile(Path())
    numbers = [
        {**asdict(number), "kind": table.columns[number.name].kind} for number in encoding.numbers
    ]
    categories = [{**asdict(one), "kind": "category"} for one in encoding.categories]
    others = {*table.columns, *table.decoding.drop} - set(encoding.names)
    return {
        "columns": numbers + categories,
        "others": sorted(others),
        "one_hot": encoding.one_hot,
        "missing": list(table.decoding.missing),
        "decimal": table.decoding.decimal,
        "delimiter": csv.delimiter,
        "encoding": csv.encoding,
        "target": {
            "names": list(encoding.targets),
            "mean": list(encoding.target_mean),
            "std": list(encoding.target_std),
        },
    }


def _sizes(table: Mapping[str, Any] | None, name: str) -> dict[str, list[int]]:
    """The number of codes of each column of `codes`: a code beyond it has no embedding."""
    if table is None or name != "codes":
        return {}
    columns = [column for column in table["columns"] if column["kind"] == "category"]
    return {"sizes": [len(column["values"]) + FIRST for column in columns]}


def _file_of(program: Program, count: int, runtime: str) -> str:
    """The name of a program's file, in a folder of so many programs."""
    return ("program" if count == 1 else program.name) + SUFFIX[runtime]


def _tolerance(precision: str, runtime: str) -> float:
    if (precision, runtime) == ("float32", ONNX):
        return ONNX_TOLERANCE
    return TOLERANCE[precision]


def _bytes(weights: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The bytes of the weights by type."""
    found: Counter[str] = Counter()
    for array in weights.values():
        found[str(array.dtype)] += array.nbytes
    return dict(found)


def _program(example: Example, count: int, run: Run, runtime: str) -> dict[str, Any]:
    program = example.program
    inputs = _described(program.fixed_time() if runtime == ONNX else program.inputs)
    if program.name == "predict":  # whose inputs are columns of the data
        for name, about in inputs.items():
            about |= _range(run, name) | _rate(run, name) | _sizes(_table(run), name)
    if program.name == "generate" and "y" in inputs and (classes := num_classes(run.train)):
        inputs["y"]["range"] = [0, classes - 1]
    if "z" in inputs and has_normal_prior(example):
        inputs["z"]["prior"] = NORMAL
    return {
        "file": _file_of(program, count, runtime),
        "platforms": ["cpu"] if runtime == ONNX else list(program.exported.platforms),
        "inputs": inputs,
        "outputs": _described(program.outputs),
        "max_time": program.max_time,
        "weights": sorted(program.weights),
    }


def _described(specs: Specs) -> dict[str, Any]:
    return {
        name: {
            "shape": [n if isinstance(n, int) else str(n) for n in spec.shape],
            "dtype": str(spec.dtype),
        }
        for name, spec in specs.items()
    }


def _range(run: Run, name: str) -> dict[str, Any]:
    """The smallest and largest value of a column of the data, where known."""
    data = run.test or run.valid or run.train
    bounds = data.dataset.bounds.get(name) if isinstance(data, DatasetLoader) else None
    return {} if bounds is None else {"range": [float(bounds[0]), float(bounds[1])]}


def _rate(run: Run, name: str) -> dict[str, int]:
    """The samples a second of waveforms x, where the data are sounds."""
    data = run.test or run.valid or run.train
    source = getattr(getattr(data, "dataset", None), "source", None)
    rate = getattr(getattr(source, "decoder", source), "rate", None)  # files have a decoder
    return {} if rate is None or name != "x" else {"sampling_rate": rate}


def tokenizer_of(run: Run) -> Tokenizer | None:
    """The run's tokenizer, or that of its data (`labelled_text`)."""
    dataset = getattr(run.test or run.valid or run.train, "dataset", None)
    return run.tokenizer or getattr(dataset, "tokenizer", None)


def _tokenizer(run: Run) -> dict[str, Any] | None:
    """How texts become tokens: the file, the special tokens around a text, and the end token."""
    tokenizer = tokenizer_of(run)
    if isinstance(tokenizer, SubwordTokenizer):
        file, special, name = TOKENIZER, tokenizer.special_tokens(1), tokenizer.eos_token
    elif isinstance(tokenizer, ByteTokenizer):
        file, special, name = None, [[], [tokenizer.eos_id]], None
    else:
        return None
    return {"file": file, "eos_id": tokenizer.eos_id, "eos_token": name, "special": special}


def read_tokenizer(
    folder: Path, manifest: Mapping[str, Any]
) -> ByteTokenizer | SubwordTokenizer | None:
    """The tokenizer of an exported folder; None where the model reads no texts."""
    about = manifest["tokenizer"]
    if about is None:
        return None
    if about["file"] is None:
        return ByteTokenizer()
    return load_tokenizer(folder / about["file"], about["eos_token"])


def _chat(run: Run) -> dict[str, Any] | None:
    """The chat template of a model that was trained on dialogues: the token of each role.

    A message is the token of its role, those of its content, and the end token.
    """
    if "loss_mask" not in run.train.spec or run.tokenizer is None:
        return None
    return {"roles": {role: run.tokenizer.vocab_size + n for n, role in enumerate(ROLES)}}


def _preprocessing(run: Run) -> list[str]:
    """What the programs do to their inputs before the model reads them, in words."""
    data = run.test or run.valid
    if not isinstance(data, DatasetLoader):
        return []
    row = data.dataset.take(jnp.zeros(1, jnp.int32).__array__())
    said = [f"{name}: bytes to numbers from 0 to 1" for name, c in row.items() if is_image(name, c)]
    for transform in data.transforms:
        if isinstance(transform, Normalize):
            said.append(f"{transform.column}: minus the mean, divided by the standard deviation")
        else:
            said.append(
                f"the transform {getattr(transform, '__qualname__', type(transform).__name__)}"
            )
    return said


def _description(folder: Path, record: dict[str, Any]) -> str:
    """The docstring of the run's script; empty where it was trained without one."""
    import ast

    script = record.get("script")
    path = folder / "code" / Path(script).name if isinstance(script, str) else None
    if path is None or not path.is_file():
        return ""
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def _results(folder: Path, step: int) -> dict[str, dict[str, Any]]:
    """The metrics of the last evaluation until that step, by split."""
    lines = [
        line
        for line in log.read(folder)
        if line["step"] <= step and log.is_evaluated(line["split"])
    ]
    return {line["split"]: {k: v for k, v in line.items() if k != "split"} for line in lines}


def _cost(folder: Path) -> dict[str, Any]:
    """The seconds that the training took, where they are recorded."""
    path = folder / "summary.json"
    return {"seconds": read_json(path)["seconds"]} if path.is_file() else {}


def _data(run: Run) -> dict[str, Any]:
    """The number of examples of each split."""
    splits = {"train": run.train, "valid": run.valid, "test": run.test}
    return {name: data.num_examples for name, data in splits.items() if data is not None}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of an exported model; `Error` where it is another format or damaged."""
    path = folder / NAME
    if not path.is_file():
        raise Error(f"{folder} is no exported model, as it has no {NAME}: `jdl export` makes one.")
    fields, advice = (
        {"programs": dict, "files": dict},
        "use the jdl that exported it, or a newer one",
    )
    return read_description(path, FORMAT, fields, "an exported model", advice)
