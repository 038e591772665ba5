"""Predictions of an exported model, a line of JSON a row: python predict.py FILE ...

Files are .npz with the inputs by their names in manifest.json, .npy or .json with the first input,
or .txt with a text a line; of a model of a table, .csv or .json with rows by the names of its
columns, or .npz with the inputs as they are encoded. It needs jax, numpy, safetensors and
flatbuffers alone, or onnxruntime and numpy where the program is ONNX; and the library tokenizers
for texts and a tokenizer.json.
"""

import json
import runpy
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
    about, table = manifest["programs"][name], manifest.get("table")
    call = open_program(folder, about)

    def in_buckets(columns):
        """Batches are padded to a power of two, as each size is compiled once.

        A model of a table takes a list of rows by the names of its columns, too.
        """
        if table and isinstance(columns, list):
            columns = tables("encode")(columns, table)
        columns = check(columns, about["inputs"])
        rows, parts = len(next(iter(columns.values()))), []
        for start in range(0, rows, MOST):
            count = min(MOST, rows - start)
            places = start + np.minimum(np.arange(1 << (count - 1).bit_length()), count - 1)
            out = call({column: values[places] for column, values in columns.items()})
            parts.append({column: np.asarray(values)[:count] for column, values in out.items()})
        found = {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}
        return tables("in_unit")(found, table) if table else found

    return manifest, in_buckets


def read(path, manifest):
    """The inputs of a file, columns (N, ...) by name."""
    about = manifest["programs"]["predict"]
    inputs = about["inputs"]
    first = "x" if "x" in inputs else next(iter(inputs))
    if manifest.get("table"):
        return read_rows(path, manifest["table"])
    if path.suffix not in (".npz", ".npy", ".json", ".txt"):
        raise ValueError(f"{path}: files are .npz, .npy or .json, or .txt with a text a line.")
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
    return columns


def read_rows(path, table):
    """The inputs of a file of rows of a table; of an .npz file, those that are encoded already."""
    if path.suffix == ".npz":
        return dict(np.load(path, allow_pickle=False))
    if path.suffix == ".json":
        return tables("encode")(json.loads(path.read_text("utf-8")), table)
    if path.suffix not in (".csv", ".tsv"):
        raise ValueError(f"{path}: this model reads rows of a table, as .csv, .tsv or .json.")
    rows = list(tables("read_csv")(path, table))
    return tables("encode")([row for _, row in rows], table, [place for place, _ in rows])


@cache
def tables(name):
    """A function of table.py, which lies beside this script where the model is of a table."""
    return runpy.run_path(str(Path(__file__).with_name("table.py")))[name]


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
        raise ValueError("This model has no tokenizer: give it tokens, as .npz or .json.")
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


def check(columns, inputs):
    """The columns that the program takes, in its types; `ValueError` for others."""
    if not isinstance(columns, dict) or inputs.keys() - columns.keys():
        found = ", ".join(columns) if isinstance(columns, dict) else type(columns).__name__
        raise ValueError(f"The model reads {', '.join(inputs)} by name, and is given {found}.")
    found = {name: convert(name, columns[name], about) for name, about in inputs.items()}
    if len(rows := {len(values) for values in found.values()}) > 1 or 0 in rows:
        raise ValueError(f"{', '.join(inputs)} need one row or more, and equally many.")
    return found


def convert(name, values, about):
    """A column of the type and shape that the program takes."""
    values, dtype = np.asarray(values), np.dtype(about["dtype"])
    if values.dtype == np.uint8 and values.ndim > 3 and dtype.kind == "f":
        values = values * np.float32(1 / 255)  # as in training
    sizes = list(zip(values.shape, about["shape"], strict=False))
    if values.ndim != len(about["shape"]) or any(n != m for n, m in sizes if isinstance(m, int)):
        raise ValueError(f"{name} must be of shape {about['shape']}, not {list(values.shape)}.")
    if values.dtype.kind not in "biuf" or (values.dtype.kind == "f" and dtype.kind != "f"):
        raise ValueError(f"{name} must be {dtype}, not {values.dtype}.")
    if "sizes" in about:
        tables("check_codes")(values, about["sizes"])
    return values.astype(dtype)


def main(paths):
    """Prints the predictions for each row, with the name of its label."""
    manifest, predict = load(Path(__file__).parent)
    for path in paths:
        out = predict(read(Path(path), manifest))
        for name, values in out.items():
            if values.dtype.kind == "f" and not (values < np.inf).all():  # NaN too
                raise ValueError(f"{path}: {name} of an answer is NaN or infinite.")
        for row in range(len(next(iter(out.values())))):
            answer = {name: values[row].tolist() for name, values in out.items()}
            if manifest["labels"] and isinstance(answer.get("label"), int):
                answer["label"] = manifest["labels"][answer["label"]]
            if manifest["tokenizer"] and "tokens" in answer:
                answer["text"] = decode(answer["tokens"], manifest["tokenizer"])
            print(json.dumps(answer))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from None
