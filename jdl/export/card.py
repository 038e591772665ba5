"""The model card (Mitchell et al., 2019) of an exported model: its README.md."""

from __future__ import annotations

import json
import math
from typing import Any

from jdl.export.manifest import ONNX
from jdl.export.table import names_of

LIBRARIES = "jax numpy safetensors flatbuffers"
USE = """```sh
pip install {packages}
python predict.py {argument}
```

```python
from pathlib import Path
from predict import load

manifest, {name} = load(Path("."), "{name}")
print({name}({inputs}))
```
"""
ARGUMENTS = {"prefill": '"A TEXT"', "generate": "16"}  # of the script, by its first program


def model_card(manifest: dict[str, Any]) -> str:
    """The model card of a manifest, as Markdown: task, data, results, cost, use and limits."""
    sections = {
        "Use": _use(manifest) + _programs(manifest),
        "Data": _data(manifest),
        "Results": _results(manifest),
        "Cost": _cost(manifest),
        "Limits": _limits(manifest),
    }
    text = f"# {manifest['name']}\n\n{manifest['description']}\n"
    for title, body in sections.items():
        text += f"\n## {title}\n\n{body.strip()}\n"
    return text


def _use(manifest: dict[str, Any]) -> str:
    name, program = next(iter(manifest["programs"].items()))
    packages = "onnxruntime numpy" if manifest["runtime"] == ONNX else LIBRARIES
    if (manifest["tokenizer"] or {}).get("file"):
        packages += " tokenizers"
    argument = ARGUMENTS.get(name, "texts.txt" if manifest["tokenizer"] else "FILE.npy")
    inputs = ", ".join(f'"{column}": {column}' for column in program["inputs"])
    columns = f"{{{inputs}}}"
    if name == "predict" and manifest["table"]:
        argument, names = "FILE.csv", names_of(manifest["table"])
        columns = f"[{{{', '.join(f'{json.dumps(column)}: ...' for column in names)}}}]"
    return USE.format(name=name, inputs=columns, packages=packages, argument=argument)


def _table(table: dict[str, Any] | None) -> list[str]:
    """How rows of a table are given, and the unit of the answers."""
    if table is None:
        return []
    kinds = ", ".join(f"{column['name']} ({column['kind']})" for column in table["columns"])
    lines = [
        f"- Rows are given by the names of the table's columns, {kinds}: table.py standardizes "
        "numbers and encodes categories as in training. `x` and `codes` are what it makes of them."
    ]
    if table["target"]["std"]:
        names = ", ".join(table["target"]["names"])
        lines.append(
            f"- predict.py answers in the unit of {names}; the program in standard deviations."
        )
    return lines


def _programs(manifest: dict[str, Any]) -> str:
    lines = ["", "| program | | name | shape | type |", "|---|---|---|---|---|"]
    for name, program in manifest["programs"].items():
        for kind in ("inputs", "outputs"):
            for column, about in program[kind].items():
                shape = ", ".join(map(str, about["shape"]))
                lines.append(f"| {name} | {kind[:-1]} | {column} | ({shape}) | {about['dtype']} |")
    lines.append("")
    for said in manifest["preprocessing"]:
        lines.append(f"- Inside the program: {said}.")
    lines += _table(manifest["table"])
    return "\n".join(lines)


def _data(manifest: dict[str, Any]) -> str:
    lines = [f"- {split}: {count:,} examples" for split, count in manifest["data"].items()]
    if manifest["labels"]:
        lines.append(f"- {len(manifest['labels'])} labels: {', '.join(manifest['labels'][:50])}")
    return "\n".join(lines)


def _results(manifest: dict[str, Any]) -> str:
    lines = ["| split | metric | value | 95% interval |", "|---|---|---|---|"]
    for split, numbers in manifest["results"].items():
        for metric, value in numbers.items():
            if metric != "step" and "/" not in metric:
                shown = "not finite" if value is None else f"{value:.4g}"
                rows = manifest["data"].get(split, 0)
                within = "" if value is None else _interval(metric, value, rows)
                lines.append(f"| {split} | {metric} | {shown} | {within} |")
    if left_out := sorted(manifest["data"].keys() - manifest["results"].keys() - {"train"}):
        lines += [
            "",
            f"These are the weights of step {manifest['step']:,}, for which the run has no metrics "
            f"of {', '.join(left_out)}: `jdl evaluate RUN`, with --best for the best step, "
            "computes them.",
        ]
    trained = manifest["trained"]["devices"]
    cost = manifest["cost"].get("seconds")
    took = f" in {cost:,.0f} s" if cost is not None else ""
    lines += [
        "",
        f"Trained for {manifest['step']:,} steps{took} on {trained['count']} x "
        f"{trained['kind']}, seed {manifest['seed']}. The numbers are of one seed; intervals are "
        "Wilson's, of the rows that were drawn for the split.",
    ]
    return "\n".join(lines)


def _interval(metric: str, value: float, rows: int) -> str:
    """The interval of a share of the rows; nothing for what is none, or is of other units."""
    right = round(value * rows)
    if not metric.endswith("accuracy") or not rows or abs(right - value * rows) > 1e-3:
        return ""
    low, high = wilson_interval(right, rows)
    return f"{low:.4g} to {high:.4g}"


def wilson_interval(right: int, rows: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a share (Wilson, 1927), 95% for this z."""
    share, extra = right / rows, z**2 / rows
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / rows + extra / rows / 4)
    return middle - half, middle + half


def _cost(manifest: dict[str, Any]) -> str:
    """The bytes of the weights by type."""
    parts = [f"{nbytes:,} bytes of {dtype}" for dtype, nbytes in manifest["weights"].items()]
    return f"Its weights take {sum(manifest['weights'].values()):,} bytes: {', '.join(parts)}."


def _limits(manifest: dict[str, Any]) -> str:
    onnx = manifest["runtime"] == ONNX
    times = {about["max_time"] for about in manifest["programs"].values()} - {None}
    share = f"{manifest['check']['tolerance']:g} of the largest number"
    lines = ["It was tested on data like its own; of any other nothing is known."]
    if onnx:
        lines.append(f"Answers of ONNX Runtime differ from the run's by at most {share}.")
        lines += [
            f"Sequences are padded to {n:,} steps: `length` says how many count." for n in times
        ]
    else:
        lines += [
            "Answers are equal to the bit on the same kind of machine, versions and batch size; "
            "elsewhere they differ by rounding.",
            "A batch of each new size is compiled once: predict.py pads to powers of two.",
            "StableHLO promises to be read by JAX for six months: keep the run as the source.",
        ]
    return "\n".join(f"- {line}" for line in lines)
