"""Files of weights: safetensors, NumPy's .npz, and PyTorch's files without their pickled code."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdl.types import Error

INDEX = "model.safetensors.index.json"  # names the parts of weights in several files
WHOLE = ("model.safetensors", "pytorch_model.bin")  # the usual names of weights in one file
TORCH = (".pt", ".pth", ".bin")
Arrays = dict[str, np.ndarray]


def read_weights(path: Path) -> tuple[Arrays, str]:
    """The arrays by name in a file or in a folder of Hugging Face, and their SHA-256.

    That of one file is the file's own; that of several is of the lines that `sha256sum` prints.
    Files are .safetensors, .npz, or PyTorch's .pt, .pth and .bin, for which PyTorch must be
    installed. No code in a file is run. Raises `Error` where a file is damaged, or of another kind.
    """
    paths = weight_files(path)
    arrays: Arrays = {}
    for file in paths:
        part = read_file(file)
        if both := arrays.keys() & part.keys():
            raise Error(f"Two files of {path} have the weight {min(both)}: keep one of them.")
        arrays |= part
    return arrays, sha256_of(paths)


def weight_files(path: Path) -> list[Path]:
    """The files of the weights at a path: the file itself, or those in a folder."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise Error(f"There are no weights at {path}: no such file or folder.")
    if (path / INDEX).is_file():
        return [path / name for name in _indexed(path / INDEX)]
    if whole := next((path / name for name in WHOLE if (path / name).is_file()), None):
        return [whole]
    found = sorted(
        file for file in path.iterdir() if file.suffix in (".safetensors", ".npz", *TORCH)
    )
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise Error(
            f"{path} must have one file of weights (model.safetensors), or {INDEX}; it has "
            f"{names}. Name the file itself."
        )
    return found


def _indexed(index: Path) -> list[str]:
    """The names of the files in an index; none leads out of the folder."""
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Error(f"{index} is no index of weights: {type(error).__name__}: {error}.") from error
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise Error(f"{index} names the file {name!r}, which is not beside it.")
    return names


def read_file(path: Path) -> Arrays:
    """The arrays by name in one file."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in TORCH:
        return _read_torch(path)
    raise Error(f"{path} must be .safetensors, .npz, or PyTorch's {', '.join(TORCH)}.")


def _read_safetensors(path: Path) -> Arrays:
    library = _library()
    try:
        return library.numpy.load_file(path)
    except (library.SafetensorError, OSError, ValueError) as error:
        raise Error(f"{path} is no file of safetensors, or damaged: {error}.") from error
    except (KeyError, AttributeError) as error:
        raise Error(f"{path} has numbers of a type that NumPy lacks: {error}.") from error


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise Error("Files of safetensors need: pip install safetensors.") from None
    return safetensors


def _read_npz(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise Error(f"{path} is no .npz file of plain arrays, or damaged: {error}.") from error


def _read_torch(path: Path) -> Arrays:
    try:
        import torch
    except ImportError:
        raise Error(
            f"{path} is a file of PyTorch: install it (pip install torch), or write the weights as "
            "safetensors where it is installed: safetensors.torch.save_file(model.state_dict(), "
            "'model.safetensors')."
        ) from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise Error(  # CVE-2025-32434
            f"PyTorch {torch.__version__} may run code in {path}: install 2.6 or later, or write "
            "the weights as safetensors."
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise Error(f"{path} holds more than weights, or is damaged: {error}.") from error
    tensors = found.get("state_dict", found) if isinstance(found, Mapping) else {}
    if not tensors or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise Error(f"{path} holds no state_dict, a dict of tensors by name.")
    return {name: _numpy(tensor) for name, tensor in tensors.items()}


def _numpy(tensor: Any) -> np.ndarray:
    """A tensor as an array; NumPy itself lacks bfloat16."""
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view("bfloat16")
    return tensor.numpy()


def sha256_of(paths: Sequence[Path]) -> str:
    """The SHA-256 of one file, or of the lines that `sha256sum` prints of several."""
    sums = []
    for path in paths:
        with path.open("rb") as file:
            sums.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(sums) == 1:
        return sums[0]
    lines = "".join(f"{one}  {path.name}\n" for one, path in zip(sums, paths, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def write_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Writes arrays by name to a new .safetensors file; raises `Error` if it exists."""
    safetensors = _library()
    if path.suffix != ".safetensors":
        raise Error(f"{path}: weights are written as .safetensors; give the file this suffix.")
    contiguous = {  # NumPy makes (1,) of ()
        name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()
    }
    try:
        with path.open("xb") as file:
            file.write(safetensors.numpy.save(contiguous, metadata))
    except FileExistsError:
        raise Error(f"{path} exists already: choose another name, or delete it.") from None
    except OSError as error:
        raise Error(f"{path} cannot be written: {error}.") from error
