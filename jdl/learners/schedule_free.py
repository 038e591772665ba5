"""Schedule-free training, looked at through the average that its optimizer keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from jdl.types import Error, Learner, State, Variables


def schedule_free(learner: Learner) -> Learner:
    """The same training by one of Optax's schedule-free optimizers, looked at through the average of its parameters.

    Such an optimizer takes gradients between its newest parameters and their average, and is to be judged at the
    average (Defazio et al., 2024). BatchNorm's statistics stay those of the place where gradients are taken.
    Raises `Error` where the learner's optimizer is not schedule-free.
    """

    def view(state: State) -> Variables:
        variables = learner.view(state)
        return {
            **variables,
            "params": schedule_free_eval_params(_state_of(state.opt_state), variables["params"]),
        }

    return replace(learner, view=view)


def _state_of(opt_state: Any) -> ScheduleFreeState:
    def is_one(node: Any) -> bool:
        return isinstance(node, ScheduleFreeState)

    found = [node for node in jax.tree.leaves(opt_state, is_leaf=is_one) if is_one(node)]
    if len(found) != 1:
        raise Error(
            "jdl.schedule_free needs one schedule-free optimizer within the learner, such as "
            f"optax.contrib.schedule_free_adamw, and found {len(found)}."
        )
    return found[0]
