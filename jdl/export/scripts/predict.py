"""Predictions of an exported model, a line of JSON a row: python predict.py FILE ...

Files are .npz with the inputs by their names in manifest.json, .npy or .json with the first input,
or .txt with a text a line. It needs jax, numpy, safetensors and flatbuffers alone, or onnxruntime
and numpy where the program is ONNX; and the library tokenizers for texts and a tokenizer.json.
"""

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np

MOST = 256  # rows of a batch


def open_program(folder, about):
    """A function of arrays by name, by JAX or by ONNX Runtime as the manifest's file has it."""
    path = folder / about["file"]
    if path.suffix == ".onnx":
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)  # errors alone
        session = onnxruntime.InferenceSession(str(path))
        names = about["outputs"]
        return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))
    import jax
    import jax.export
    from safetensors.numpy import load_file

    weights = load_file(folder / "weights.safetensors")
    weights = jax.device_put({name: weights[name] for name in about["weights"]})
    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda inputs: call(weights, inputs)


def load(folder, name="predict"):
    """The manifest, and a program: a function of columns (N, ...) by name that gives such."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    call = open_program(folder, manifest["programs"][name])

    def in_buckets(columns):
        """Batches are padded to a power of two, as each size is compiled once."""
        rows, parts = len(next(iter(columns.values()))), []
        for start in range(0, rows, MOST):
            count = min(MOST, rows - start)
            places = start + np.minimum(np.arange(1 << (count - 1).bit_length()), count - 1)
            out = call({column: values[places] for column, values in columns.items()})
            parts.append({column: np.asarray(values)[:count] for column, values in out.items()})
        return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}

    return manifest, in_buckets


def read(path, manifest):
    """The inputs of a file, columns (N, ...) by name."""
    about = manifest["programs"]["predict"]
    inputs = about["inputs"]
    first = "x" if "x" in inputs else next(iter(inputs))
    if path.suffix == ".txt":
        most = about["max_time"] or inputs["x"]["shape"][1]
        columns = encode(path.read_text("utf-8").splitlines(), manifest["tokenizer"], most)
    elif path.suffix == ".json":
        found = json.loads(path.read_text("utf-8"))
        columns = found if isinstance(found, dict) else {first: found}
    else:
        found = np.load(path, allow_pickle=False)
        columns = {first: found} if path.suffix == ".npy" else dict(found)
    if "length" in inputs and "length" not in columns:
        columns["length"] = np.full(len(columns[first]), np.shape(columns[first])[1])
    if "length" in inputs or path.suffix == ".txt":
        columns = {name: to_time(columns[name], about) for name, about in inputs.items()}
    return {name: convert(name, columns[name], about) for name, about in inputs.items()}


def to_time(values, about):
    """Rows with zeros after their ends, up to the time that the program takes if that is one."""
    values, shape = np.asarray(values), about["shape"]
    if values.ndim < 2 or isinstance(shape[1], str) or values.shape[1] >= shape[1]:
        return values
    after = [(0, 0), (0, shape[1] - values.shape[1])] + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, after)


def encode(lines, tokenizer, most):
    """The tokens of texts, cut to `most` with special ones around them, and their lengths."""
    if tokenizer is None:
        raise SystemExit("This model has no tokenizer: give it tokens, as .npz or .json.")
    library = open_library(tokenizer["file"]) if tokenizer["file"] else None
    if library:
        texts = [library.encode(line, add_special_tokens=False).ids for line in lines]
    else:  # bytes
        texts = [list(line.encode()) for line in lines]
    before, after = tokenizer["special"]
    room = most - len(before) - len(after)
    if cut := sum(len(text) > room for text in texts):
        print(f"{cut} of {len(texts)} texts are cut to {most} tokens.", file=sys.stderr)
    tokens = [[*before, *text[:room], *after] for text in texts]
    longest = max(map(len, tokens), default=0)
    x = [row + [tokenizer["eos_id"]] * (longest - len(row)) for row in tokens]
    return {"x": x, "length": list(map(len, tokens))}


def decode(tokens, tokenizer):
    """The text of tokens until the end token."""
    end = tokens.index(tokenizer["eos_id"]) if tokenizer["eos_id"] in tokens else len(tokens)
    library = open_library(tokenizer["file"]) if tokenizer["file"] else None
    if library:
        return library.decode(tokens[:end])
    return bytes(token for token in tokens[:end] if token < 256).decode(errors="replace")


@cache
def open_library(file):
    """The tokenizer in a file."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Path(__file__).parent / file))


def convert(name, values, about):
    """A column of the type and shape that the program takes."""
    values, dtype = np.asarray(values), np.dtype(about["dtype"])
    if values.dtype == np.uint8 and values.ndim > 3 and dtype.kind == "f":
        values = values * np.float32(1 / 255)  # as in training
    wanted = tuple(n for n in about["shape"] if isinstance(n, int))
    if values.shape[len(values.shape) - len(wanted) :] != wanted:
        raise SystemExit(f"{name} must be of shape {about['shape']}, not {values.shape}.")
    if values.dtype.kind == "f" and dtype.kind != "f":
        raise SystemExit(f"{name} must be {dtype}, not {values.dtype}.")
    return values.astype(dtype)


def main(paths):
    """Prints the predictions for each row, with the name of its label."""
    manifest, predict = load(Path(__file__).parent)
    for path in paths:
        out = predict(read(Path(path), manifest))
        for row in range(len(next(iter(out.values())))):
            answer = {name: values[row].tolist() for name, values in out.items()}
            if manifest["labels"] and isinstance(answer.get("label"), int):
                answer["label"] = manifest["labels"][answer["label"]]
            if manifest["tokenizer"] and "tokens" in answer:
                answer["text"] = decode(answer["tokens"], manifest["tokenizer"])
            print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
