"""Knowledge distillation: a small model, the student, learns from a trained one, the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from numbers import Real
from typing import Any

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from jdl.keys import stream
from jdl.objectives import model_call
from jdl.objectives.adapted_model import AdaptedModel
from jdl.objectives.classification import Classification
from jdl.objectives.hints import (
    PROJECTIONS,
    feature_errors,
    init_projections,
    record_features,
)
from jdl.objectives.language_modelling import NextToken
from jdl.objectives.model_keywords import name_of
from jdl.objectives.override import map_variables, override
from jdl.objectives.predict import map_rows
from jdl.objectives.pretrained_model import PretrainedModel
from jdl.types import (
    CACHE,
    Array,
    Batch,
    Bounds,
    Error,
    Key,
    Loader,
    LossOutput,
    Mean,
    Objective,
    Variables,
)

TEACHER = "teacher"


def distil(
    objective: Objective,
    teacher: Any,
    temperature: float = 4.0,
    weight: float = 0.9,
    features: Mapping[str, str] | None = None,
    feature_weight: float = 1.0,
) -> Objective:
    """Knowledge distillation (Hinton et al., 2015): the model also learns a teacher's answers.

    `objective` is `classify` or `next_token` of the student, and `teacher` a pretrained model with
    logits of the same shape, `jdl.pretrained(model, weights)`. With the probabilities
    softmax(logits / T) of both, at the `temperature` T, the loss of a label is

        (1 - weight) * own loss + weight * T^2 * KL(teacher's || student's)

    and counts as the own loss does: with the same masks and weights, in training and evaluation.
    The own loss is all of it: also the z-loss and the load-balancing loss of `next_token`.
    The metric `distillation` is T^2 * KL; all others and the predictions are those of the student.

    The teacher sees the same batch, as it was augmented, in evaluation mode, and is not trained.
    Its variables are the collection "teacher" of the model state: a run's checkpoints hold them.
    What else changes an objective comes afterwards: `freeze(distil(...), pattern)`.

    A `teacher` that is a string names a column of its logits, computed once by `teacher_logits`:
    a step then evaluates no teacher. Rows that mixup or cropping changes would have the logits of
    others: a run whose `shuffled` augments is refused. Of `next_token` the teacher must be causal.

    `features={"Block_1": "Block_3"}` are FitNets' hints (Romero et al., 2015), for Linen models:
    the outputs of the student's layers, and of the teacher's that they learn. They have the same
    shape but for the channels, which a learned linear projection (a 1 x 1 convolution) brings to
    the teacher's number: `feature_projections` of the parameters. `feature_weight` times the mean
    squared errors, whose sum is the metric `features`, is added to the loss.
    """
    of_student = check_taught("distil", objective, temperature, weight)
    if feature_weight < 0:
        raise Error(f"feature_weight must be 0 or more, not {feature_weight}.")
    stored = isinstance(teacher, str)
    if stored and features:
        raise Error("A column holds the teacher's logits alone: features need the teacher itself.")
    if not stored and not isinstance(_unadapted(teacher), PretrainedModel):
        raise Error(
            f"The teacher, {name_of(teacher)}, has no weights yet and would teach noise: give "
            "distil a trained one, jdl.pretrained(model, jdl.weights.load(...))."
        )
    hints, columns = dict(features or {}), (teacher,) if stored else ()
    new = _Distillation(of_student, teacher, temperature, weight, hints, feature_weight)
    student = map_variables(objective, _of_student, keep=None if stored else TEACHER)
    return override(student, init=new.init, loss=new.loss, check=new.check, stored_columns=columns)


def teacher_logits(teacher: Any, batches: Loader) -> np.ndarray:
    """A teacher's logits for all rows of an epoch, for knowledge distillation without its cost.

    `train.with_columns(given=teacher_logits(teacher, train.batches(500)))` are data for
    `jdl.distil(objective, "given")`. The batches are those of a dataset, in its order, as
    `classify` gives them to its model.
    """

    if getattr(batches, "seed", None) is not None:
        raise Error(
            "The batches are shuffled, and the logits would be those of other rows: give "
            "teacher_logits train.batches(n)."
        )

    def evaluate(variables: Variables, batch: Batch) -> Batch:
        return {"logits": model_call.evaluate(teacher, variables, batch)}

    first = batches[0]
    inputs = model_call.model_inputs(teacher, first)
    variables = model_call.init(teacher, jax.random.key(0), first, *inputs)
    return map_rows(evaluate, variables, batches)["logits"]


@dataclass(frozen=True, eq=False)
class _Distillation:
    """What distillation changes of the student's objective; see `distil`."""

    objective: Classification | NextToken
    teacher: Any  # or the name of a column of its logits
    temperature: float
    weight: float
    hints: dict[str, str]  # by the student's layers, the teacher's
    feature_weight: float

    def init(self, key: Key, batch: Batch) -> Variables:
        """The student's initial variables, as without a teacher, and the teacher's."""
        variables = self.objective.init(key, batch)
        if isinstance(self.teacher, str):
            return variables
        seen = self.objective.seen(batch)
        inputs = model_call.model_inputs(self.teacher, seen)
        teacher = model_call.init(self.teacher, stream(key, TEACHER), seen, *inputs)
        self._check_teacher(teacher)
        variables = {**variables, TEACHER: teacher}
        if not self.hints:
            return variables
        run = partial(self._run, train=False)
        student, given = jax.eval_shape(run, variables, batch, jax.random.key(0))[2:]
        made = init_projections(stream(key, PROJECTIONS), self.hints, student, given)
        return {**variables, "params": {**variables["params"], PROJECTIONS: made}}

    def loss(self, variables: Variables, batch: Batch, key: Key, train: bool) -> LossOutput:
        """The weighted sum of the student's own loss and its divergence from the teacher."""
        (logits, state), given, of_student, of_teacher = self._run(variables, batch, key, train)
        kept = {TEACHER: variables[TEACHER]} if TEACHER in variables else {}
        taught = taught_loss(
            self.objective, logits, given, state | kept, batch, train, self.temperature, self.weight
        )
        if not self.hints:
            return taught
        projections, shape = variables["params"][PROJECTIONS], logits.shape[:-1]
        errors = feature_errors(projections, self.hints, of_student, of_teacher, shape)
        hint = Mean.of(errors, self.objective.loss_weights(logits, batch))
        total = taught.loss.total + self.feature_weight * hint.total
        metrics = {**taught.metrics, "features": hint}
        return replace(taught, loss=Mean(total, taught.loss.count), metrics=metrics)

    def _run(self, variables: Variables, batch: Batch, key: Key, train: bool) -> tuple[Any, ...]:
        """The student's logits and state, the teacher's logits, and the features of both."""
        with record_features() as of_student:
            outputs = self.objective.outputs(_of_student(variables), batch, key, train)
        if isinstance(self.teacher, str):
            return outputs, self._stored(batch), {}, {}
        with record_features() as of_teacher:
            seen = self.objective.seen(batch)
            given = model_call.evaluate(self.teacher, variables[TEACHER], seen)
        return outputs, given, of_student, of_teacher

    def _stored(self, batch: Batch) -> Array:
        """The teacher's logits in the batch; of tokens without those after the last one."""
        logits = model_call.column(batch, self.teacher)
        if isinstance(self.objective, NextToken):
            return logits[:, : self.objective.seen(batch)["x"].shape[1]]
        return logits

    def check(self, spec: Batch, bounds: Bounds) -> None:
        """Raises `Error` if the data do not fit the student, or the teacher has other outputs."""
        self.objective.check(spec, bounds)
        if not isinstance(self.teacher, str):
            return check_comparable(self.objective, self.teacher, "teacher", spec)
        teacher = jax.eval_shape(self._stored, spec).shape
        _check_shapes(self.objective, teacher, f"teacher, column {self.teacher},", spec)

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


def check_taught(
    name: str, objective: Objective, temperature: float, weight: float
) -> Classification | NextToken:
    """The objective; raises `Error` where `name` cannot teach its model so."""
    if not isinstance(objective, Classification | NextToken):
        raise Error(
            f"{name} compares logits, and needs an objective that classify or next_token gave, not "
            f"{type(objective).__name__}. Others come afterwards: jdl.freeze(jdl.{name}(...), "
            "pattern); distil and mutual do not go together, nor twice."
        )
    if isinstance(objective, NextToken) and objective.chunk is not None:
        raise Error(f"{name} compares all logits at once: leave out next_token(chunk=...).")
    if not isinstance(temperature, Real) or not 0 < temperature < inf:
        raise Error(f"temperature must be a number above 0, not {temperature!r}.")
    if not isinstance(weight, Real) or not 0 < weight <= 1:
        raise Error(
            "weight, the share of the divergence in the loss, must be a number in (0, 1], not "
            f"{weight!r}."
        )
    return objective


def check_comparable(
    objective: Classification | NextToken, other: Any, role: str, spec: Batch
) -> None:
    """Raises `Error` where another model, a teacher or a peer, has logits of another shape."""
    seen = jax.eval_shape(objective.seen, spec)
    shape = model_call.output_shape(other, seen)
    _check_shapes(objective, shape, f"{role}, {name_of(other)},", spec)


def _check_shapes(
    objective: Classification | NextToken, shape: tuple[int, ...], whose: str, spec: Batch
) -> None:
    model, seen = objective.model, jax.eval_shape(objective.seen, spec)
    student = model_call.output_shape(model, seen)
    if student != shape:
        raise Error(
            f"The {whose} gives logits of shape {shape}, and the student, {name_of(model)}, of "
            f"shape {student}: distillation compares them one by one, so both need the same "
            "classes."
        )


def taught_loss(
    objective: Classification | NextToken,
    logits: Array,
    given: Array,
    model_state: Variables,
    batch: Batch,
    train: bool,
    temperature: float,
    weight: float,
) -> LossOutput:
    """The weighted sum of a model's own loss and its divergence from the `given` logits."""
    own = objective.loss_of(logits, model_state, batch, train)
    divergences = softened_divergence(logits, given, temperature)
    divergence = Mean.of(divergences, objective.loss_weights(logits, batch))
    total = (1 - weight) * own.loss.total + weight * divergence.total
    metrics = {**own.metrics, "distillation": divergence}
    return replace(own, loss=Mean(total, own.loss.count), metrics=metrics)


def softened_divergence(student: Array, teacher: Array, temperature: float) -> Array:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits (..., K), in nats: (...).

    T^2 keeps the size of the gradients, which softening by T makes 1 / T^2 as large.
    """
    softened = (jax.nn.log_softmax(logits / temperature) for logits in (student, teacher))
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(*softened)


def _of_student(variables: Variables) -> Variables:
    """The variables of the student alone."""
    student = {name: v for name, v in variables.items() if name != TEACHER}
    params = student["params"]
    if isinstance(params, Mapping) and PROJECTIONS in params:
        params = {name: v for name, v in params.items() if name != PROJECTIONS}
    return {**student, "params": params}


def _unadapted(model: Any) -> Any:
    return model.model if isinstance(model, AdaptedModel) else model
