"""Methods of Hugging Face's PEFT: how adapters are laid out there and here.

In this module and those of the methods, "there" is PEFT and its files, and "here" jdl's variables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jdl.types import Objective, Variables
from jdl.weights.files import Arrays
from jdl.weights.rules import Rule

Config = Mapping[str, Any]  # adapter_config.json
Parts = dict[str, np.ndarray]  # of a module's adapter, by the last names of paths here
WITHOUT_EFFECT = {  # on what loaded adapters compute
    *("auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out"),
    *("inference_mode", "modules_to_save", "peft_type", "peft_version", "revision"),
    *("target_modules", "task_type"),
}


@dataclass(frozen=True)
class Method:
    """A method of PEFT, such as LoRA, and its adapters in files and in variables.

    `write` gives the parts of the adapter of a matrix there, from a rule, the paths of one or
    several matrices here, and the arrays that are trained and those below. `read` is its inverse,
    for a module there. `write_config` gives what adapter_config.json has besides, from the
    parts by module and the variables. `adapt` gives the objective with adapters at the paths of
    some arrays, and with what else is trained, a regular expression.
    """

    peft_type: str
    collection: str  # in the model state, with the weights below
    names: Mapping[str, str]  # the ends of names there, by the last names of paths here
    options: frozenset[str]  # of adapter_config.json: those that are read, or have no effect
    defaults: Mapping[str, tuple[Any, ...]]  # other options that may be there, with these values
    required: frozenset[str]
    write: Callable[[Rule, list[str], Arrays, Arrays], Parts]
    read: Callable[[Config, str, Parts, Rule, list[str]], Arrays]
    write_config: Callable[[Mapping[str, Parts], Variables], dict[str, Any]]
    adapt: Callable[[Objective, Config, Iterable[str], str | None], Objective]


def exactly(paths: Iterable[str]) -> str:
    """A regular expression of these paths alone, also of an objective's network "model"."""
    return f"^(model/)?({'|'.join(re.escape(path.partition('/')[2]) for path in paths)})$"


def without(part: str, paths: Iterable[str]) -> list[str]:
    """The paths of the matrices whose adapters have this part."""
    return [path.removesuffix(f"/{part}") for path in paths if path.endswith(f"/{part}")]
