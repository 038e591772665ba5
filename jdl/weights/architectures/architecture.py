"""What an architecture of Hugging Face is made of, and how its config.json is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jdl.errors import Error
from jdl.weights.rules import LINEAR, Layout, Rule

Config = Mapping[str, Any]


def quick_gelu(x: jax.Array) -> jax.Array:
    """GELU by the sigmoid (Hendrycks and Gimpel, 2016), as CLIP has it."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_new": nn.gelu,
    "gelu_fast": nn.gelu,
    "gelu_pytorch_tanh": nn.gelu,
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
}

# Of a layer that gives queries, keys and values at once. The bias of the keys has no effect, and
# jdl's keys have none.
FUSED_BIAS = Layout(
    lambda x: np.split(x, 3)[::2],
    lambda query, value: np.concatenate([query, np.zeros_like(query), value]),
)


@dataclass(frozen=True)
class Architecture:
    """A model of the sizes and the form that a config.json names, and where its weights belong.

    `skip` is a regular expression of the parts that stay fresh, such as a new head.
    """

    model: nn.Module
    rules: tuple[Rule, ...]
    skip: str = ""


def value(config: Config, name: str) -> Any:
    """A value of config.json; raises `Error` if it is missing, or a number in quotes."""
    if name not in config:
        raise Error(
            f"config.json has no {name}, which a {config.get('model_type')} needs: it must be the "
            "file that lies beside the weights."
        )
    if isinstance(config[name], str) and config[name].isdigit():
        raise Error(f"config.json has {name} in quotes, {config[name]!r}: write the number.")
    return config[name]


def require(config: Config, **expected: Any) -> None:
    """Raises `Error` where config.json names another value than the one that jdl's model has."""
    for name, wanted in expected.items():
        if (given := config.get(name, wanted)) != wanted:
            raise Error(
                f"config.json has {name}={given!r}, and jdl's {config.get('model_type')} is the "
                f"form with {name}={wanted!r} alone."
            )


def choose(config: Config, name: str, table: Mapping[str, Any]) -> Any:
    """The entry of the table that config.json names; raises `Error` if it is not there."""
    if (given := value(config, name)) not in table:
        raise Error(f"config.json has {name}={given!r}, and jdl has {', '.join(table)} alone.")
    return table[given]


def head(config: Config, heads: Mapping[str, Any]) -> Any:
    """What the table has for the class that config.json names, such as GPT2LMHeadModel.

    Without a name it is the first entry.
    """
    names = config.get("architectures") or list(heads)[:1]
    if len(names) != 1 or names[0] not in heads:
        raise Error(f"config.json has architectures={names}, and jdl has {', '.join(heads)} alone.")
    return heads[names[0]]


def dense(theirs: str, ours: str, layout: Layout = LINEAR) -> tuple[Rule, Rule]:
    """The rules of a dense layer with a bias."""
    kernel = Rule(f"{theirs}.weight", f"{ours}/kernel", layout)
    return kernel, Rule(f"{theirs}.bias", f"{ours}/bias")


def keys(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """The rules of an attention's keys, whose bias has no effect: jdl's have none."""
    kernel, bias = dense(theirs, ours)
    return kernel, replace(bias, ours=None)


def norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """The rules of layer normalization."""
    return Rule(f"{theirs}.weight", f"{ours}/scale"), Rule(f"{theirs}.bias", f"{ours}/bias")


def with_and_without(prefix: str, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules, and also those for a file of the backbone alone, whose names lack the prefix.

    The first are those by which weights are written.
    """
    short = (r for r in rules if r.theirs.startswith(prefix))
    return (*rules, *(replace(r, theirs=r.theirs.removeprefix(prefix)) for r in short))
