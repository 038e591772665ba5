"""Adapters of LoRA in the files of Hugging Face's PEFT, out and in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.objectives.lora import LORA, MAGNITUDE, A, B, lora
from jdl.objectives.override import override
from jdl.types import BATCH_STATS, Batch, Error, Key, Objective, Variables
from jdl.weights.architectures.gpt2 import FUSED
from jdl.weights.files import Arrays, read_file, write_safetensors
from jdl.weights.from_pretrained import architecture_of, read_config
from jdl.weights.hub import TEXTS
from jdl.weights.load import arrays_by_path, folder_of
from jdl.weights.rules import CONV, LINEAR, SAME, Rule, finder, named, to_jdl, to_theirs

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the names in PEFT's file
NAMES = {A: "lora_A.weight", B: "lora_B.weight", MAGNITUDE: "lora_magnitude_vector"}
READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"}
WITHOUT_EFFECT = {  # on what loaded adapters compute
    *("auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out"),
    *("inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core"),
    *("modules_to_save", "peft_version", "qalora_group_size", "revision", "target_modules"),
    "task_type",
}
NEUTRAL: dict[str, tuple[Any, ...]] = {  # other initial weights than these change the base too
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
Parts = dict[str, np.ndarray]


def save_adapters(
    variables: Variables, folder: Path | str, source: Path | str, head: str | None = None
) -> None:
    """Writes adapters of `jdl.lora` as a new folder that Hugging Face's PEFT loads.

    `variables` are those of `jdl.lora` on a model that `from_pretrained(source)` made, such as
    `jdl.restore(run).variables`. `PeftModel.from_pretrained(base, folder)` computes the same,
    where `base` is a model of the class in the config.json of `source`, or of the class `head`,
    such as "BertForSequenceClassification", if its head is new. Of what is trained in full the
    whole module is written (`modules_to_save`), with BatchNorm's statistics. Queries, keys and
    values that are one matrix in GPT-2 get one adapter, with the sum of their ranks. Raises `Error`
    if the folder exists, and for what PEFT has no place for.
    """
    target = Path(folder)
    if target.exists():
        raise Error(f"{target} exists already: choose another folder, or delete it.")
    if LORA not in variables:
        raise Error("These variables have no adapters: give those of an objective of jdl.lora.")
    trained = arrays_by_path({"params": variables["params"]})
    full = {path: x for path, x in trained.items() if path.rpartition("/")[2] not in NAMES}
    kept = {"params": variables[LORA]["base"], BATCH_STATS: variables.get(BATCH_STATS, {})}
    weights = arrays_by_path(kept) | full
    rules, prefix = _rules(source, head)
    rows = list(named(weights, rules))
    _check_complete(weights, trained, rules, head)
    adapted = [row for row in rows if any(f"{place}/{A}" in trained for place in row[2])]
    adapters = {
        _module(name).removeprefix(prefix): _to_peft(name, rule, places, trained, weights)
        for name, rule, places in adapted
    }
    whole = {_module(name) for name, _, places in rows if not full.keys().isdisjoint(places)}
    saved = {p: weights[p] for name, _, places in rows if _module(name) in whole for p in places}
    found = to_theirs(saved, rules)
    found |= _without_effect(found, whole, rules)
    arrays = {name.removeprefix(prefix): x for name, x in found.items()}
    for module, parts in adapters.items():
        arrays |= {f"{module}.{NAMES[part]}": array for part, array in parts.items()}
    target.mkdir(parents=True)
    write_safetensors(
        target / WEIGHTS, {PREFIX + name: x for name, x in arrays.items()}, {"format": "pt"}
    )
    config = _config(adapters, float(variables[LORA]["scale"])) | {
        "base_model_name_or_path": str(source).removeprefix("hf:"),
        "modules_to_save": sorted(name.removeprefix(prefix) for name in whole) or None,
        "fan_in_fan_out": any(rule.layout in (SAME, FUSED) for _, rule, _ in adapted),
    }
    (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def load_adapters(
    objective: Objective, folder: Path | str, source: Path | str, head: str | None = None
) -> Objective:
    """PEFT (parameter-efficient fine-tuning): `jdl.lora` that begins with adapters from its files.

    The model of `objective` is one that `from_pretrained(source)` made, and `folder` has
    adapter_config.json and adapter_model.safetensors, or is "hf:organization/adapters" of the hub.
    `head` is the class of transformers that the adapters were trained in, such as
    "BertForSequenceClassification", where it is not the one in the config.json of `source`. LoRA,
    rank-stabilized LoRA and DoRA are known, and modules that were saved whole (`modules_to_save`).
    `jdl.merge_lora(objective.init(key, batch))` are the variables of the plain model. Raises
    `Error` for any other option in adapter_config.json, with its value, and for weights that have
    no place in the model.
    """
    found = folder_of(folder, (CONFIG, WEIGHTS))
    config = _read_config(found / CONFIG)
    modules, full = _split(read_file(found / WEIGHTS))
    rules, _ = _rules(source, head)
    find = finder(rules)
    for module in sorted({_module(name) for name in full}):
        if not any(find(name)[1] for name in full if _module(name) == module):
            raise Error(
                f"{folder} has the trained module {module}, and the model of {source} has no "
                'place for it: name the class that has it, head="BertForSequenceClassification", '
                "say."
            )
    arrays = to_jdl(full, rules)
    trained, rank = list(arrays), config["r"]
    scale = _scale(config, rank, config["lora_alpha"])
    for module, parts in modules.items():
        factor = _module_scale(config, module, len(parts[A])) / scale
        arrays |= _to_jdl(module, parts, factor, *find(f"{module}.weight"))
    targets = [path.removesuffix(f"/{A}") for path in arrays if path.endswith(f"/{A}")]
    adapted = lora(
        objective,
        _exactly(targets),
        rank,
        config["lora_alpha"],
        _exactly(trained) if trained else None,
        config.get("use_rslora", False),
        config.get("use_dora", False),
    )

    def init(key: Key, batch: Batch) -> Variables:
        variables = adapted.init(key, batch)
        collections = {n: variables[n] for n in ("params", BATCH_STATS) if n in variables}
        filled = _filled(flatten_dict(collections, sep="/"), arrays, str(folder))
        return {**variables, **unflatten_dict(filled, sep="/")}

    return override(adapted, init=init)


def _rules(source: Path | str, head: str | None) -> tuple[tuple[Rule, ...], str]:
    """The rules of the model's class, and the prefix of names that this class has not.

    A model without a head has the names of its backbone alone.
    """
    config = dict(read_config(folder_of(source, TEXTS)))
    if head is not None:
        config["architectures"] = [head]
    if config.get("model_type") == "clip":
        raise Error(
            "Adapters of CLIP's two towers are neither written nor read as PEFT has them: keep "
            'them by jdl.weights.save({"params": variables["params"]}, "adapters.safetensors").'
        )
    rules = architecture_of(config).rules
    names = config.get("architectures") or [""]
    plain = names[0].endswith("Model") and "LMHead" not in names[0]
    return rules, f"{rules[0].theirs.partition('.')[0]}." if plain else ""


def _check_complete(
    weights: Arrays, trained: Arrays, rules: tuple[Rule, ...], head: str | None
) -> None:
    """Raises `Error` where weights have no name in this class, or it has others."""
    targets = {path.removesuffix(f"/{A}") for path in trained if path.endswith(f"/{A}")}
    if unknown := sorted(targets - weights.keys()):
        raise Error(
            f"The variables have no weights {', '.join(unknown)} below the adapters: of quantized "
            "ones give jdl.objectives.dequantize_variables(variables)."
        )
    known = {place for _, _, places in named(weights, rules) for place in places}
    ours = {p for r in rules for p in ([r.ours] if isinstance(r.ours, str) else r.ours or ())}
    heads = {p for p in ours if re.fullmatch(r"params/[^{}\d]+", p)}  # and all that is there once
    lacking = heads - weights.keys()
    if extra := sorted(weights.keys() - known):
        raise Error(
            f"There is no name for {', '.join(extra)} in {head or 'the class of the source'}: name "
            'the class that has this head, head="BertForSequenceClassification", say.'
        )
    if lacking:
        raise Error(
            f"{head or 'The class of the source'} has {', '.join(sorted(lacking))}, which the "
            "model has not: it is another model (its pool, say), and would compute something else."
        )


def _to_peft(
    name: str, rule: Rule, places: list[str], trained: Arrays, weights: Arrays
) -> dict[str, np.ndarray]:
    """The adapter of a matrix there, from those of one or several matrices here."""
    _check_layout(name, rule)
    adapters = [_adapter(place, trained, weights[place]) for place in places]
    a = np.concatenate([parts[A].T for parts in adapters])
    b = np.zeros((sum(parts[B].shape[1] for parts in adapters), len(a)), a.dtype)
    row = column = 0
    for parts in adapters:
        rank, outputs = parts[B].shape
        b[row : row + outputs, column : column + rank] = parts[B].T
        row, column = row + outputs, column + rank
    found = {A: a, B: b}
    if any(f"{place}/{MAGNITUDE}" in trained for place in places):
        found[MAGNITUDE] = np.concatenate([parts[MAGNITUDE] for parts in adapters])
    if rule.layout is CONV:
        height, width, inputs, _ = weights[places[0]].shape
        found[A] = a.reshape(-1, height, width, inputs).transpose(0, 3, 1, 2)
        found[B] = b[:, :, None, None]
        found |= {MAGNITUDE: found[MAGNITUDE][None, :, None, None]} if MAGNITUDE in found else {}
    return found


def _adapter(path: str, trained: Arrays, weight: np.ndarray) -> dict[str, np.ndarray]:
    """The adapter of a matrix here; one of rank 0 where it has none."""
    matrix = weight.reshape(-1, weight.shape[-1])
    none = {
        A: np.zeros((len(matrix), 0), weight.dtype),
        B: np.zeros((0, matrix.shape[1]), weight.dtype),
        MAGNITUDE: np.linalg.norm(matrix, axis=0),
    }
    return {part: trained.get(f"{path}/{part}", array) for part, array in none.items()}


def _to_jdl(
    module: str, parts: dict[str, np.ndarray], factor: float, rule: Rule | None, places: list[str]
) -> dict[str, np.ndarray]:
    """The adapters of the matrices here that are the matrix of one adapter there."""
    if rule is None or not places:
        raise Error(f"The adapter of {module} has no place: jdl's model has no such matrix.")
    _check_layout(f"{module}.weight", rule)
    a, b = parts[A], parts[B]
    if rule.layout is CONV:
        a, b = a.transpose(0, 2, 3, 1).reshape(len(a), -1), b.reshape(len(b), -1)
    scaled = b if factor == 1 else b * np.asarray(factor, b.dtype)
    found: dict[str, np.ndarray] = {}
    for place, own in zip(places, np.split(scaled, len(places)), strict=True):
        used = own.any(0) if own.any() else np.ones(len(a), bool)  # not the ranks of the others
        found |= {f"{place}/{A}": a[used].T, f"{place}/{B}": own[:, used].T}
    if MAGNITUDE in parts:
        magnitudes = np.split(parts[MAGNITUDE].reshape(-1), len(places))
        found |= {f"{p}/{MAGNITUDE}": x for p, x in zip(places, magnitudes, strict=True)}
    return found


def _without_effect(arrays: Arrays, modules: set[str], rules: tuple[Rule, ...]) -> Arrays:
    """What jdl lacks of these modules and PEFT asks for: biases of keys, numbers of batches."""
    find = finder(rules)
    made: Arrays = {}
    for module in modules:
        outputs = len(arrays[f"{module}.weight"]) if f"{module}.weight" in arrays else 0
        zeros = {"bias": np.zeros(outputs, np.float32), "num_batches_tracked": np.zeros((), int)}
        for part, array in zeros.items():
            rule, places = find(f"{module}.{part}")
            if rule is not None and not places:
                made[f"{module}.{part}"] = array
    return made


def _check_layout(name: str, rule: Rule) -> None:
    """Raises `Error` for adapters of what is no matrix of inputs and outputs."""
    ours = rule.ours if isinstance(rule.ours, str) else (rule.ours or ("",))[0]
    if not ours.endswith("/kernel"):
        raise Error(
            f"jdl has adapters of {name} in its own files alone: of an embedding table that is "
            "also the output, PEFT adapts one of both."
        )
    if rule.layout not in (LINEAR, SAME, CONV, FUSED):
        raise Error(f"Adapters of {name} have another layout in PEFT: leave it out of the targets.")


def _config(adapters: Mapping[str, dict[str, np.ndarray]], scale: float) -> dict[str, Any]:
    """The adapter_config.json of adapters, whose scale is alpha / rank."""
    ranks = {module: len(parts[A]) for module, parts in adapters.items()}
    rank = min(ranks.values())
    others = {module: r for module, r in ranks.items() if r != rank}
    return {
        "peft_type": "LORA",
        "target_modules": list(adapters),
        "r": rank,
        "lora_alpha": _number(scale * rank),
        "rank_pattern": others,
        "alpha_pattern": {module: _number(scale * r) for module, r in others.items()},
        "use_dora": any(MAGNITUDE in parts for parts in adapters.values()),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def _number(alpha: float) -> float | int:
    """A whole number where it is one: 16, not 16.0."""
    return round(alpha) if alpha == round(alpha) else alpha


def _read_config(path: Path) -> dict[str, Any]:
    """The adapter_config.json; raises `Error` for what jdl does not have, with its value."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Error(f"{path} cannot be read: {error}.") from error
    if config.get("peft_type") != "LORA":
        raise Error(f"{path} has peft_type={config.get('peft_type')!r}, and jdl reads LORA alone.")
    for name, value in config.items():
        known = name in READ | WITHOUT_EFFECT or value in NEUTRAL.get(name, (None, False, {}, []))
        if not known:
            raise Error(f"{path} has {name}={value!r}, which jdl's LoRA does not have.")
    if missing := {"r", "lora_alpha"} - config.keys():
        raise Error(f"{path} has no {', '.join(sorted(missing))}.")
    return config


def _split(arrays: Arrays) -> tuple[dict[str, dict[str, np.ndarray]], Arrays]:
    """The parts of adapters by module, and the weights of modules that were saved whole."""
    modules: dict[str, dict[str, np.ndarray]] = {}
    full: Arrays = {}
    endings = {f".{ending}": part for part, ending in NAMES.items()}
    for key, array in arrays.items():
        name = key.removeprefix(PREFIX).replace("lora_magnitude_vector.weight", NAMES[MAGNITUDE])
        ending = next((end for end in endings if name.endswith(end)), None)
        if ending:
            modules.setdefault(name.removesuffix(ending), {})[endings[ending]] = array
        elif "lora_" in name:
            raise Error(f"The adapter {name} is of an embedding table or a bias, which jdl leaves.")
        else:
            full[name] = array
    if broken := [module for module, parts in modules.items() if not {A, B} <= parts.keys()]:
        raise Error(f"The adapter of {broken[0]} has one of lora_A and lora_B alone.")
    return modules, full


def _module_scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """The scale of a module's adapter, whose alpha may be its own."""
    patterns = config.get("alpha_pattern") or {}
    alphas = (a for p, a in patterns.items() if re.match(rf"(.*\.)?({p})$", module))
    return _scale(config, rank, next(alphas, config["lora_alpha"]))


def _scale(config: Mapping[str, Any], rank: int, alpha: float) -> float:
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _filled(params: Mapping[str, Any], arrays: Arrays, source: str) -> dict[str, Any]:
    """The parameters with these arrays in their places; ranks may be others."""
    found = dict(params)
    for path, array in arrays.items():
        if path not in params:
            raise Error(f"{source} has weights for {path}, and the model has no such parameter.")
        shape, rank = list(params[path].shape), {A: 1, B: 0}.get(path.rpartition("/")[2])
        if rank is not None:
            shape[rank] = array.shape[rank]
        if list(array.shape) != shape:
            raise Error(f"{source} has {path} {list(array.shape)}, and the model has {shape}.")
        found[path] = jnp.asarray(array).astype(params[path].dtype)
    return found


def _exactly(paths: list[str]) -> str:
    """A regular expression of these paths alone."""
    return f"^({'|'.join(re.escape(path.partition('/')[2]) for path in paths)})$"


def _module(name: str) -> str:
    """The module of a weight there."""
    return name.rpartition(".")[0]
