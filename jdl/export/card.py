"""The model card (Mitchell et al., 2019) of an exported model: its README.md."""

from __future__ import annotations

from typing import Any

USE = """```sh
pip install jax numpy safetensors flatbuffers
python predict.py FILE.npy
```

```python
from pathlib import Path
from predict import load

manifest, {name} = load(Path("."), "{name}")
print({name}({{{inputs}}}))
```
"""


def model_card(manifest: dict[str, Any]) -> str:
    """The model card of a manifest, as Markdown: task, data, results, cost, use and limits."""
    name, program = next(iter(manifest["programs"].items()))
    inputs = ", ".join(f'"{column}": {column}' for column in program["inputs"])
    sections = {
        "Use": USE.format(name=name, inputs=inputs) + _programs(manifest),
        "Data": _data(manifest),
        "Results": _results(manifest),
        "Limits": _limits(manifest),
    }
    text = f"# {manifest['name']}\n\n{manifest['description']}\n"
    for title, body in sections.items():
        text += f"\n## {title}\n\n{body.strip()}\n"
    return text


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
    return "\n".join(lines)


def _data(manifest: dict[str, Any]) -> str:
    lines = [f"- {split}: {count:,} examples" for split, count in manifest["data"].items()]
    if manifest["labels"]:
        lines.append(f"- {len(manifest['labels'])} labels: {', '.join(manifest['labels'][:50])}")
    return "\n".join(lines)


def _results(manifest: dict[str, Any]) -> str:
    lines = ["| split | metric | value |", "|---|---|---|"]
    for split, numbers in manifest["results"].items():
        for metric, value in numbers.items():
            if metric != "step" and "/" not in metric:
                shown = "not finite" if value is None else f"{value:.4g}"
                lines.append(f"| {split} | {metric} | {shown} |")
    trained = manifest["trained"]["devices"]
    cost = manifest["cost"].get("seconds")
    took = f" in {cost:,.0f} s" if cost is not None else ""
    lines += [
        "",
        f"Trained for {manifest['step']:,} steps{took} on {trained['count']} x "
        f"{trained['kind']}, seed {manifest['seed']}. The numbers are of one seed.",
    ]
    return "\n".join(lines)


def _limits(manifest: dict[str, Any]) -> str:
    return "\n".join(
        [
            "- It was tested on data like its own; of any other nothing is known.",
            "- Answers are equal to the bit on the same kind of machine, versions and batch size; "
            "elsewhere they differ by rounding.",
            "- A batch of each new size is compiled once: predict.py pads to powers of two.",
            "- StableHLO promises to be read by JAX for six months: keep the run as the source.",
        ]
    )
