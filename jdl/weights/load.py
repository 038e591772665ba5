"""Loading of weights: from files, folders, Hugging Face's hub, and trained runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.inspect.restore import checkpoint_path, restore
from jdl.objectives.freeze import merge_frozen
from jdl.objectives.ia3 import IA3, merge_ia3
from jdl.objectives.lora import LORA, merge_lora
from jdl.objectives.pretrained_model import Weights
from jdl.objectives.quantize import QUANTIZED, dequantize_variables
from jdl.store.catalog import find
from jdl.store.record import read_record
from jdl.store.saved_arrays import read_arrays, saved_arrays
from jdl.train.experiment import recorded
from jdl.types import CACHE, Error, Variables
from jdl.weights.files import Arrays, read_weights, write_safetensors
from jdl.weights.hub import PREFIX, WEIGHTS, hub_folder

RUN = "run:"
AVERAGE = "/weight_sum"  # in the state of a schedule-free optimizer
PLAIN = {  # functions that give the plain model's variables, by the collection that they take away
    QUANTIZED: ("jdl.objectives", dequantize_variables),  # first, as adapters may be added to these
    LORA: ("jdl", merge_lora),
    IA3: ("jdl", merge_ia3),
}


def load(source: str | Path, best: bool = False, root: Path | str = "runs") -> Weights:
    """Weights for `jdl.pretrained`; they are read when they are needed.

    `source` is a file (.safetensors, .npz, or PyTorch's), a folder of Hugging Face,
    "hf:organization/model@revision" from its hub, or "run:NAME", a trained run by its folder or by
    its name under `root`, as `jdl evaluate` takes it. A run gives the variables that it is
    evaluated with, from its newest checkpoint or with `best` from its best one, with adapters
    merged and quantized weights in full; one whose code is not kept, its parameters and the model's
    state, where its state has no more. Raises `Error` where they cannot be read, when they are
    needed.
    """
    name = str(source)
    if not name.startswith(RUN) and (Path(name) / "run.json").is_file():
        name = f"{RUN}{name}"
    if best and not name.startswith(RUN):
        raise Error(f"best=True chooses a checkpoint of a run, {RUN}NAME; {name} has one version.")
    if name.startswith(RUN):
        return Weights(lambda: (*_of_run(find(name.removeprefix(RUN), Path(root)), best), name))
    return Weights(lambda: _of_files(source))


def folder_of(source: str | Path, patterns: Sequence[str] = WEIGHTS) -> Path:
    """The folder or file of a source that is no run.

    Of "hf:" it is that in the cache of the hub, with the files of these patterns.
    """
    name = str(source)
    if name.startswith(PREFIX):
        return hub_folder(name.removeprefix(PREFIX), patterns)
    return Path(name).expanduser()


def _of_files(source: str | Path) -> tuple[Arrays, str, str]:
    path = folder_of(source)
    return *read_weights(path), name_of_source(source, path)


def name_of_source(source: str | Path, path: Path) -> str:
    """The name of a source for the record; one of the hub has the commit that its files are of."""
    name = str(source)
    if name.startswith(PREFIX):  # the folder of a snapshot has the name of its commit
        name = f"{name.partition('@')[0]}@{path.name}"
    return name


def save(variables: Variables, path: Path | str) -> None:
    """Writes variables to a .safetensors file that `load` reads, under their paths.

    They are those of a run, `jdl.restore(folder).variables`, say. Parameters of `jdl.freeze` stand
    among the others, in "params". A collection "cache" is left out.
    Raises `Error` if the file exists.
    """
    write_safetensors(Path(path), arrays_by_path(variables))


def arrays_by_path(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of variables by path, such as "params/Conv_0/kernel"; frozen parameters too."""
    kept = {name: tree for name, tree in merge_frozen(dict(variables)).items() if name != CACHE}
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(kept, sep="/").items()}


def plain_variables(variables: Variables) -> Variables:
    """The variables of the plain model: adapters are merged, and quantized weights in full."""
    for collection, (_, function) in PLAIN.items():
        variables = function(variables) if collection in variables else variables
    return variables


def _of_run(folder: Path, best: bool) -> tuple[dict[str, np.ndarray], str]:
    if not read_record(folder)["code"]:
        arrays = _without_code(folder, best)
    else:
        run, _ = recorded(folder)  # without its precision: parameters are kept in float32
        variables = run.learner.eval_variables(restore(folder, run, best).state)
        arrays = arrays_by_path(plain_variables(variables))
    digest = hashlib.sha256()
    for path, array in sorted(arrays.items()):
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return arrays, digest.hexdigest()


def _without_code(folder: Path, best: bool) -> dict[str, np.ndarray]:
    """The parameters and the model's state of a run that cannot be rebuilt.

    Where its state has more, an average or adapters say, only its learner knows what it is
    evaluated with.
    """
    checkpoint = checkpoint_path(folder, best)
    paths = set(saved_arrays(checkpoint))
    parts = ("extra/", *(f"model_state/{name}/" for name in PLAIN))
    if more := sorted(path for path in paths if path.startswith(parts) or AVERAGE in path):
        variables = "jdl.restore(folder, run).variables"
        for name, (module, function) in PLAIN.items():
            if any(f"/{name}/" in path for path in more):
                variables = f"{module}.{function.__name__}({variables})"
        raise Error(
            f"{folder} was trained by jdl.fit, and its code is not kept. Its state has more than "
            f"parameters ({more[0]}), so only its learner knows what it is evaluated with: write "
            f'that from Python, with jdl.weights.save({variables}, "file.safetensors"), and load '
            "the file."
        )
    kept = {path for path in paths if path.startswith(("params/", "model_state/"))}
    found = read_arrays(checkpoint, kept).items()
    arrays = {path.removeprefix("model_state/"): array for path, array in found}
    return arrays_by_path(unflatten_dict(arrays, sep="/"))
