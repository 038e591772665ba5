"""Schedule-free optimization, evaluated at the average of the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from optax import MaskedNode
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from jdl.learners.wrapper import Wrapper, refuse_pruned
from jdl.types import Batch, Error, Key, Learner, State, Variables


def schedule_free(learner: Learner) -> ScheduleFree:
    """Schedule-free training (Defazio et al., 2024): evaluated at the average of the parameters.

    The learner's optimizer is one of `optax.contrib`'s schedule-free ones, such as
    `schedule_free_adamw`, which take gradients between the newest parameters and their average.
    BatchNorm's statistics remain those of the point where gradients are taken. Raises `Error` if
    the optimizer is not schedule-free.
    """
    return ScheduleFree(learner)


@dataclass(frozen=True, eq=False)
class ScheduleFree(Wrapper):
    """Schedule-free evaluation; see `schedule_free`."""

    def init(self, key: Key, batch: Batch) -> State:
        """The inner learner's initial state."""
        state = self.learner.init(key, batch)
        refuse_pruned(state, "schedule_free")
        return state

    def eval_variables(self, state: State) -> Variables:
        """The inner learner's variables, with the average of the parameters."""
        variables = self.learner.eval_variables(state)
        found, params = _find_state(state.opt_state), variables["params"]
        masked = _where_masked(found.z, found.z, params)  # as within optax.partition or masked
        average = schedule_free_eval_params(found, masked)
        return {**variables, "params": _where_masked(average, params, average)}


def _where_masked(tree: Any, yes: Any, no: Any) -> Any:
    """The leaves of `yes` where a tree has none (`optax.MaskedNode`), and elsewhere those of `no`.

    A schedule-free optimizer may be given a part of the parameters: the others have no average.
    """

    def is_masked(node: Any) -> bool:
        return isinstance(node, MaskedNode)

    def choose(node: Any, if_masked: Any, otherwise: Any) -> Any:
        return if_masked if is_masked(node) else otherwise

    return jax.tree.map(choose, tree, yes, no, is_leaf=is_masked)


def _find_state(opt_state: Any) -> ScheduleFreeState:
    def matches(node: Any) -> bool:
        return isinstance(node, ScheduleFreeState)

    states = [node for node in jax.tree.leaves(opt_state, is_leaf=matches) if matches(node)]
    if len(states) != 1:
        raise Error(
            "jdl.schedule_free needs one schedule-free optimizer within the learner, such as "
            f"optax.contrib.schedule_free_adamw: this learner has {len(states)}."
        )
    return states[0]
