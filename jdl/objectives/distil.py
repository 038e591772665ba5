"""Knowledge distillation: a small model, the student, learns from a trained one, the teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import jax
import optax
from flax.traverse_util import flatten_dict

from jdl.keys import stream
from jdl.objectives import model_call
from jdl.objectives.adapted_model import AdaptedModel
from jdl.objectives.classification import Classification
from jdl.objectives.language_modelling import NextToken
from jdl.objectives.model_keywords import name_of
from jdl.objectives.override import map_variables, override
from jdl.objectives.pretrained_model import PretrainedModel
from jdl.types import (
    CACHE,
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    LossOutput,
    Mean,
    Objective,
    Variables,
)

TEACHER = "teacher"


def distil(
    objective: Objective, teacher: Any, temperature: float = 4.0, weight: float = 0.9
) -> Objective:
    """Knowledge distillation (Hinton et al., 2015): the model also learns a teacher's answers.

    `objective` is `classify` or `next_token` of the student, and `teacher` a pretrained model with
    logits of the same shape, `jdl.pretrained(model, weights)`. With the probabilities
    softmax(logits / T) of both, at the `temperature` T, the loss of a label is

        (1 - weight) * own loss + weight * T^2 * KL(teacher's || student's)

    and counts as the own loss does: with the same masks and weights, in training and evaluation.
    The metric `distillation` is T^2 * KL; all others and the predictions are those of the student.

    The teacher sees the same batch, as it was augmented, in evaluation mode, and is not trained.
    Its variables are the collection "teacher" of the model state: a run's checkpoints hold them.
    What else changes an objective comes afterwards: `freeze(distil(...), pattern)`.
    """
    if not isinstance(objective, Classification | NextToken):
        raise Error(
            "distil compares logits, and needs an objective that classify or next_token gave, not "
            f"{type(objective).__name__}. Wrap it afterwards: jdl.freeze(jdl.distil(...), pattern)."
        )
    if not 0 < temperature < inf:
        raise Error(f"temperature must be a number above 0, not {temperature}.")
    if not 0 < weight <= 1:
        raise Error(f"weight, the teacher's share of the loss, must be in (0, 1], not {weight}.")
    if not isinstance(_unadapted(teacher), PretrainedModel):
        raise Error(
            f"The teacher, {name_of(teacher)}, has no weights yet and would teach noise: give "
            "distil a trained one, jdl.pretrained(model, jdl.weights.load(...))."
        )
    taught = _Distillation(objective, teacher, temperature, weight)
    student = map_variables(objective, _of_student, keep=TEACHER)
    return override(student, init=taught.init, loss=taught.loss, check=taught.check)


@dataclass(frozen=True, eq=False)
class _Distillation:
    """What distillation changes of the student's objective; see `distil`."""

    objective: Classification | NextToken
    teacher: Any
    temperature: float
    weight: float

    def init(self, key: Key, batch: Batch) -> Variables:
        """The student's initial variables, as without a teacher, and the teacher's."""
        seen = self.objective.seen(batch)
        inputs = model_call.model_inputs(self.teacher, seen)
        teacher = model_call.init(self.teacher, stream(key, TEACHER), seen, *inputs)
        self._check_teacher(teacher)
        return {**self.objective.init(key, batch), TEACHER: teacher}

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The weighted sum of the student's own loss and its divergence from the teacher."""
        objective, seen = self.objective, self.objective.seen(batch)
        logits, state = objective.outputs(_of_student(variables), batch, key, train)
        own = objective.loss_of(logits, state | {TEACHER: variables[TEACHER]}, batch, train)
        given = model_call.evaluate(self.teacher, variables[TEACHER], seen)
        divergences = softened_divergence(logits, given, self.temperature)
        divergence = Mean.of(divergences, objective.loss_weights(logits, batch))
        total = (1 - self.weight) * own.loss.total + self.weight * divergence.total
        scores = {**own.metrics, "distillation": divergence}
        return replace(own, loss=Mean(total, own.loss.count), metrics=scores)

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the data do not fit the student, or the teacher has other outputs."""
        self.objective.check(spec, bounds)
        seen = jax.eval_shape(self.objective.seen, spec)
        model = self.objective.model
        student = model_call.output_shape(model, seen)
        teacher = model_call.output_shape(self.teacher, seen)
        if student != teacher:
            raise Error(
                f"The teacher, {name_of(self.teacher)}, gives logits of shape {teacher}, and the "
                f"student, {name_of(model)}, of shape {student}: distillation compares them one by "
                "one, so both need the same classes."
            )

    def _check_teacher(self, variables: Variables) -> None:
        """Raises `Error` where the teacher is not trained whole, or carries a state."""
        name, skips = name_of(self.teacher), _unadapted(self.teacher).skips
        if fresh := list(filter(skips, flatten_dict(variables, sep="/"))):
            raise Error(
                f"The teacher, {name}, would teach noise: it leaves {fresh[0]} without trained "
                "weights (skip=...). A teacher needs all of them."
            )
        if CACHE in variables:
            raise Error(
                f"The teacher, {name}, carries a state from batch to batch, and each batch is "
                "taught alone: build it with stateful=False."
            )


def softened_divergence(student: Array, teacher: Array, temperature: float) -> Array:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits (..., K), in nats: (...).

    T^2 keeps the size of the gradients, which softening by T makes 1 / T^2 as large.
    """
    softened = (jax.nn.log_softmax(logits / temperature) for logits in (student, teacher))
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(*softened)


def _of_student(variables: Variables) -> Variables:
    """The variables of the student alone."""
    return {name: v for name, v in variables.items() if name != TEACHER}


def _unadapted(model: Any) -> Any:
    return model.model if isinstance(model, AdaptedModel) else model
