"""Several networks in one objective: their variables by collection, and then by network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jdl.layers.frozen_batch_norm import called_as_network
from jdl.objectives import model_call
from jdl.types import Batch, Key, Variables


def join_networks(networks: Mapping[str, Variables]) -> Variables:
    """The variables of networks by name as one tree, by collection and then by network."""
    names = sorted({name for variables in networks.values() for name in variables})
    return {
        name: {network: found[name] for network, found in networks.items() if name in found}
        for name in names
    }


def of_network(variables: Variables, network: str) -> Variables:
    """The variables of the network of this name, by collection."""
    return {name: v[network] for name, v in variables.items() if network in v}


def apply_network(
    model: Any,
    network: str,
    variables: Variables,
    inputs: tuple[Any, ...],
    batch: Batch,
    key: Key,
    train: bool,
) -> tuple[Any, Variables]:
    """The output of a network, a `model`, and the variables of all networks afterwards."""
    own = of_network(variables, network)
    with called_as_network(network):
        out, state = model_call.apply(model, own, inputs, batch, key, train)
    changed = {name: {**variables[name], network: v} for name, v in state.items()}
    return out, {**variables, **changed}
