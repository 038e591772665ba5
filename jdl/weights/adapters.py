"""Adapters of LoRA and IA3 in the files of Hugging Face's PEFT, out and in."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jdl.objectives.contrastive import OF_X, OF_Y
from jdl.objectives.lora import A, B
from jdl.objectives.override import override
from jdl.objectives.pretrained_model import Loaded, PretrainedModel, Weights
from jdl.types import BATCH_STATS, Batch, Error, Key, Objective, Variables
from jdl.weights.architectures.gpt2 import FUSED
from jdl.weights.files import Arrays, read_file, sha256_of, write_safetensors
from jdl.weights.from_pretrained import architecture_of, read_config
from jdl.weights.hub import TEXTS
from jdl.weights.load import arrays_by_path, folder_of, name_of_source
from jdl.weights.peft import Method, Parts, exactly
from jdl.weights.peft_ia3 import IA3_FILES
from jdl.weights.peft_lora import LORA_FILES
from jdl.weights.rules import CONV, LINEAR, SAME, Rule, finder, named, to_jdl, to_theirs

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the names in PEFT's file
METHODS = {method.peft_type: method for method in (LORA_FILES, IA3_FILES)}


def save_adapters(
    variables: Variables, folder: Path | str, source: Path | str, head: str | None = None
) -> None:
    """Writes adapters of `jdl.lora` or `jdl.ia3` as a new folder that Hugging Face's PEFT loads.

    `variables` are those of `jdl.lora` on a model that `from_pretrained(source)` made, such as
    `jdl.restore(run).variables`. `PeftModel.from_pretrained(base, folder)` computes the same,
    where `base` is a model of the class in the config.json of `source`, or of the class `head`,
    such as "BertForSequenceClassification", if its head is new. Of what is trained in full the
    whole module is written (`modules_to_save`), with BatchNorm's statistics. Queries, keys and
    values that are one matrix in GPT-2 get one adapter, with the sum of their ranks. What an
    objective has beside its model, untrained, is left out, such as the scale of `contrastive`.
    Raises `Error` if the folder exists, and for what PEFT has no place for.
    """
    target = Path(folder)
    if target.exists():
        raise Error(f"{target} exists already: choose another folder, or delete it.")
    method = next((m for m in METHODS.values() if m.collection in variables), None)
    if method is None:
        raise Error("These variables have no adapters: give those of jdl.lora or jdl.ia3.")
    trained, kept = map(arrays_by_path, _of_model(variables, method.collection))
    full = {path: x for path, x in trained.items() if path.rpartition("/")[2] not in method.names}
    weights = kept | full
    rules, prefix = _rules(source, head)
    rows = list(named(weights, rules))
    targets = {path.rpartition("/")[0] for path in trained.keys() - full.keys()}
    _check_complete(weights, targets, rules, head)
    adapters: dict[str, Parts] = {}
    adapted = [row for row in rows if not targets.isdisjoint(row[2])]
    for name, rule, places in adapted:
        _check_layout(name, rule)
        parts = method.write(rule, places, trained, weights)
        adapters[_module(name).removeprefix(prefix)] = parts
    whole = {_module(name) for name, _, places in rows if not full.keys().isdisjoint(places)}
    _check_whole(whole, {_module(name) for name, _, _ in adapted})
    saved = {p: weights[p] for name, _, places in rows if _module(name) in whole for p in places}
    found = to_theirs(saved, rules)
    found |= _without_effect(found, whole, rules)
    arrays = {name.removeprefix(prefix): x for name, x in found.items()}
    for module, parts in adapters.items():
        arrays |= {f"{module}.{method.names[part]}": array for part, array in parts.items()}
    target.mkdir(parents=True)
    write_safetensors(
        target / WEIGHTS, {PREFIX + name: x for name, x in arrays.items()}, {"format": "pt"}
    )
    config = method.write_config(adapters, variables) | {
        "peft_type": method.peft_type,
        "inference_mode": True,
        "target_modules": list(adapters),
        "base_model_name_or_path": str(source).removeprefix("hf:"),
        "modules_to_save": sorted(name.removeprefix(prefix) for name in whole) or None,
        "fan_in_fan_out": any(rule.layout in (SAME, FUSED) for _, rule, _ in adapted),
    }
    (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def load_adapters(
    objective: Objective, folder: Path | str, source: Path | str, head: str | None = None
) -> Objective:
    """PEFT (parameter-efficient fine-tuning): `jdl.lora` or `jdl.ia3` that begins with its files.

    The model of `objective` is one that `from_pretrained(source)` made, and `folder` has
    adapter_config.json and adapter_model.safetensors, or is "hf:organization/adapters" of the hub.
    `head` is the class of transformers that the adapters were trained in, such as
    "BertForSequenceClassification", where it is not the one in the config.json of `source`. LoRA,
    rank-stabilized LoRA, DoRA and IA3 are known, and modules that were saved whole
    (`modules_to_save`). `jdl.merge_lora(objective.init(key, batch))`, or `jdl.merge_ia3(...)`, are
    the variables of the plain model. Raises `Error` for any other option in adapter_config.json,
    with its value, and for weights that have no place in the model. The folder and its SHA-256 are
    in run.json, as those of weights are; it must stay for as long as the run goes on.
    """
    found = folder_of(folder, (CONFIG, WEIGHTS))
    config = _read_config(found / CONFIG)
    method = METHODS[config["peft_type"]]
    modules, full = _split(read_file(found / WEIGHTS), method)
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
    train = exactly(arrays) if arrays else None
    for module, parts in modules.items():
        rule, places = find(f"{module}.weight")
        if rule is None or not places:
            raise Error(f"The adapter of {module} has no place: jdl's model has no such matrix.")
        _check_layout(f"{module}.weight", rule)
        try:
            arrays |= method.read(config, module, parts, rule, places)
        except ValueError as error:
            raise Error(f"The adapter of {module} has another shape: {error}.") from error
    adapted = method.adapt(objective, config, arrays, train)
    digest, name = sha256_of([found / CONFIG, found / WEIGHTS]), name_of_source(folder, found)

    def init(key: Key, batch: Batch) -> Variables:
        """The objective's initial variables, with adapters of the ranks in the file."""
        variables = adapted.init(key, batch)
        collections = {n: variables[n] for n in ("params", BATCH_STATS) if n in variables}
        filled = _filled(flatten_dict(collections, sep="/"), arrays, str(folder))
        return {**variables, **unflatten_dict(filled, sep="/")}

    weights = Weights(lambda: (arrays, digest, name))
    return override(adapted, init=_Adapters(override(adapted, init=init), weights, {}, None).init)


@dataclass(frozen=True, eq=False)
class _Adapters(PretrainedModel):
    """Adapters as what is pretrained of an objective, `model`: they are recorded as weights are."""

    def load(self, fresh: Mapping[str, Any]) -> Loaded:
        """The adapters in their places; all else has been recorded, or is of the objective."""
        names = {_place(name, fresh): name for name in self.weights.arrays}
        arrays = {
            path: self.weights.arrays[name].astype(fresh[path].dtype, copy=False)
            for path, name in names.items()
        }
        return Loaded(arrays, self.weights.source, self.weights.sha256, names, [], [])


def _rules(source: Path | str, head: str | None) -> tuple[tuple[Rule, ...], str]:
    """The rules of the model's class, and the prefix of names that this class has not.

    A model without a head has the names of its backbone alone.
    """
    config = dict(read_config(folder_of(source, TEXTS)))
    if head is not None:
        config["architectures"] = [head]
    rules = architecture_of(config).rules
    names = config.get("architectures") or [""]
    plain = names[0].endswith("Model") and "LMHead" not in names[0]
    plain &= config.get("model_type") != "clip"  # whose two towers are no other class's backbone
    return rules, f"{rules[0].theirs.partition('.')[0]}." if plain else ""


def _of_model(variables: Variables, collection: str) -> tuple[Variables, Variables]:
    """What is trained of the model and what is not, by collection; an objective may have more."""
    trained, base = variables["params"], variables[collection]["base"]
    statistics = variables.get(BATCH_STATS, {})
    if OF_X in base:  # of an objective with several networks, or with parameters of its own
        if beside := sorted({*trained, *(base.keys() & {OF_Y})} - {OF_X}):
            raise Error(
                f"PEFT's files are of one model, and this objective also has {', '.join(beside)}: "
                'keep what is trained by jdl.weights.save({"params": variables["params"]}, path).'
            )
        trained, base = trained[OF_X], base[OF_X]
        statistics = statistics.get(OF_X, statistics)
    return {"params": trained}, {"params": base, BATCH_STATS: statistics}


def _check_complete(
    weights: Arrays, targets: set[str], rules: tuple[Rule, ...], head: str | None
) -> None:
    """Raises `Error` where weights have no name in this class, or it has others."""
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


def _check_whole(modules: set[str], adapted: set[str]) -> None:
    """Raises `Error` for modules that PEFT cannot keep whole."""
    if "" in modules:
        raise Error("PEFT keeps whole modules, and CLIP's logit_scale is in none: do not train it.")
    if both := sorted(modules & adapted):
        raise Error(
            f"{', '.join(both)} has an adapter, and something that is trained in full (a bias, "
            "say), and PEFT keeps one of both: leave it out of `train`, or of what is adapted."
        )


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


def _read_config(path: Path) -> dict[str, Any]:
    """The adapter_config.json; raises `Error` for what jdl does not have, with its value."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Error(f"{path} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise Error(f"{path} cannot be read: it is no JSON object.")
    kind = config.get("peft_type")
    if not isinstance(kind, str) or (method := METHODS.get(kind)) is None:
        raise Error(f"{path} has peft_type={kind!r}, and jdl reads {', '.join(METHODS)} alone.")
    for name, value in config.items():
        neutral = method.defaults.get(name, (None, False, {}, []))
        if name not in method.options and value not in neutral:
            raise Error(
                f"{path} has {name}={value!r}, which jdl's {method.peft_type} does not have."
            )
    if missing := method.required - config.keys():
        raise Error(f"{path} has no {', '.join(sorted(missing))}.")
    return config


def _split(arrays: Arrays, method: Method) -> tuple[dict[str, Parts], Arrays]:
    """The parts of adapters by module, and the weights of modules that were saved whole."""
    modules: dict[str, Parts] = {}
    full: Arrays = {}
    endings = {f".{ending}": part for part, ending in method.names.items()}
    for key, array in arrays.items():
        name = key.removeprefix(PREFIX).replace("magnitude_vector.weight", "magnitude_vector")
        ending = next((end for end in endings if name.endswith(end)), None)
        if ending:
            modules.setdefault(name.removesuffix(ending), {})[endings[ending]] = array
        elif "lora_" in name:
            raise Error(f"The adapter {name} is of an embedding table or a bias, which jdl leaves.")
        else:
            full[name] = array
    return modules, full


def _place(path: str, paths: Collection[str]) -> str:
    """The path of a model's array among those of an objective, which may have it joined."""
    collection, _, rest = path.partition("/")
    joined = f"{collection}/{OF_X}/{rest}"
    return joined if joined in paths else path


def _filled(params: Mapping[str, Any], arrays: Arrays, source: str) -> dict[str, Any]:
    """The parameters with zeros of these arrays' shapes in their places; ranks may be others."""
    found = dict(params)
    for name, array in arrays.items():
        path = _place(name, params)
        if path not in params:
            raise Error(f"{source} has weights for {path}, and the model has no such parameter.")
        shape, rank = list(params[path].shape), {A: 1, B: 0}.get(path.rpartition("/")[2])
        if rank is not None:
            shape[rank] = array.shape[rank]
        if list(array.shape) != shape:
            raise Error(f"{source} has {path} {list(array.shape)}, and the model has {shape}.")
        found[path] = jnp.zeros(array.shape, params[path].dtype)
    return found


def _module(name: str) -> str:
    """The module of a weight there."""
    return name.rpartition(".")[0]
