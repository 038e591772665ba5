"""Deep mutual learning, online distillation: two students, each of which teaches the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax

from jdl.keys import stream
from jdl.layers.frozen_batch_norm import called_as_network
from jdl.objectives.classification import Classification
from jdl.objectives.distil import check_comparable, check_taught, taught_loss
from jdl.objectives.language_modelling import NextToken
from jdl.objectives.networks import join_networks, of_network
from jdl.objectives.override import map_variables, override
from jdl.types import Batch, Bounds, Error, Key, LossOutput, Mean, Objective, Variables

STUDENT, PEER = "student", "peer"


def mutual(
    objective: Objective, peer: Any, temperature: float = 1.0, weight: float = 0.5
) -> Objective:
    """Deep mutual learning (Zhang et al., 2018): two models teach each other as they are trained.

    Online distillation: `distil` without a trained teacher. `objective` is `classify` or
    `next_token` of a model, the student, and `peer` another model with logits of the same shape:
    of the same form or another, larger or smaller, fresh or `jdl.pretrained`. Both have the loss of
    `distil`, each with the other's logits, through which no gradient flows:

        (1 - weight) * own loss + weight * T^2 * KL(the other's || its own)

    and the loss is the sum of both, in training and evaluation. The paper's is own loss + KL: the
    defaults, T = 1 and the weight 1/2, are half of it, which for SGD is half its learning rate.
    Both are called on the same batch in the same mode, with draws (dropout) of their own; the
    student begins with the parameters that it has alone.

    Predictions are those of the student, and so are the metrics; the peer's are "peer/accuracy",
    "peer/distillation" and so on. Each collection of variables has both by name, as
    "params/student/..." and "params/peer/...". What is handed over is the student alone.
    """
    of_student = check_taught("mutual", objective, temperature, weight)
    if isinstance(peer, Objective):
        raise Error(
            f"The peer must be a model, not the objective {type(peer).__name__}: its loss is of "
            "the same kind as the student's."
        )
    if not hasattr(peer, "init") or not hasattr(peer, "apply"):
        raise Error(f"The peer must be a model, such as jdl.models.mlp.MLP(10), not {peer!r}.")
    new = _Mutual(of_student, replace(of_student, model=peer), temperature, weight)
    student = map_variables(objective, lambda variables: of_network(variables, STUDENT))
    return override(student, init=new.init, loss=new.loss, check=new.check)


@dataclass(frozen=True, eq=False)
class _Mutual:
    """What mutual learning changes of the student's objective; see `mutual`."""

    student: Classification | NextToken
    peer: Classification | NextToken
    temperature: float
    weight: float

    def init(self, key: Key, batch: Batch) -> Variables:
        """The initial variables of both."""
        peer = self.peer.init(stream(key, PEER), batch)
        return join_networks({STUDENT: self.student.init(key, batch), PEER: peer})

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The sum of both losses, each with the divergence from the other."""
        keys = {STUDENT: key, PEER: stream(key, PEER)}
        both = {STUDENT: self.student, PEER: self.peer}
        logits, states = {}, {}
        for name, one in both.items():
            with called_as_network(name):
                own = of_network(variables, name)
                logits[name], states[name] = one.outputs(own, batch, keys[name], train)
        losses = {}
        for name, other in ((STUDENT, PEER), (PEER, STUDENT)):
            given = jax.lax.stop_gradient(logits[other])
            outputs = logits[name], given, states[name], batch, train
            losses[name] = taught_loss(both[name], *outputs, self.temperature, self.weight)
        student, peer = losses[STUDENT], losses[PEER]
        return LossOutput(
            Mean(student.loss.total + peer.loss.total, student.loss.count),
            student.metrics | {f"{PEER}/{name}": metric for name, metric in peer.metrics.items()},
            join_networks({STUDENT: student.model_state, PEER: peer.model_state}),
        )

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the data do not fit both, or they have logits of other shapes."""
        self.student.check(spec, bounds)
        check_comparable(self.student, self.peer.model, "peer", spec)
        self.peer.check(spec, bounds)
