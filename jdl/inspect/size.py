"""The size of a trained model by layer, and what quantization and pruning would make of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdl.figures.size import draw_size
from jdl.inspect.cost import operations_by_scope
from jdl.inspect.restore import TrainedRun
from jdl.learners import prune_variables
from jdl.learners.prune import prunable
from jdl.learners.wrapper import Wrapper
from jdl.metrics import scalars
from jdl.numbers import number_text
from jdl.objectives import dequantize_variables, quantize_variables
from jdl.objectives.distil import TEACHER
from jdl.paths import by_path
from jdl.train.evaluate import evaluator
from jdl.types import CACHE, Batch, Error, Learner, Objective, Predicts, State, Variables

SPARSITIES = (0.5, 0.9)
REST = "(all else)"
Change = Callable[[Variables], Variables]


@dataclass(frozen=True)
class Layer:
    """A layer: its numbers, their bytes, those that are 0, and FLOPs for a row."""

    name: str
    numbers: int
    nbytes: int
    zeros: int
    operations: int


@dataclass(frozen=True)
class Form:
    """A form in which a model can be kept: its bytes, and its metric if that was measured."""

    name: str
    nbytes: int
    metric: float | None = None


@dataclass(frozen=True)
class Size:
    """The size of a model by layer, and in other forms; see `size`."""

    layers: list[Layer]
    forms: list[Form]
    metric: str  # its name, and that of the split

    def __str__(self) -> str:
        total = Layer(
            "total",
            *(
                sum(getattr(layer, name) for layer in self.layers)
                for name in ("numbers", "nbytes", "zeros", "operations")
            ),
        )
        width = max(len(layer.name) for layer in (*self.layers, total))
        lines = [
            f"{'layer':<{width}}  {'numbers':>12}  {'kB':>10}  {'zeros':>6}  {'MFLOP a row':>11}"
        ]
        lines += [
            f"{one.name:<{width}}  {one.numbers:>12,}  {one.nbytes / 1e3:>10,.1f}  "
            f"{one.zeros / max(1, one.numbers):>6.1%}  {one.operations / 1e6:>11,.3f}"
            for one in (*self.layers, total)
        ]
        lines += ["", f"{'kept as':<{width}}  {'kB':>10}  {'of today':>8}  {self.metric}".rstrip()]
        for form in self.forms:
            metric = "" if form.metric is None else f"  {number_text(form.metric)}"
            share = form.nbytes / self.forms[0].nbytes
            lines.append(
                f"{form.name:<{width}}  {form.nbytes / 1e3:>10,.1f}  {share:>8.1%}{metric}"
            )
        return "\n".join(lines)

    def draw(self, path: Path) -> None:
        """Draws the bytes of the largest layers and of the forms as a PNG."""
        draw_size(
            {layer.name: layer.nbytes for layer in self.layers},
            {layer.name: layer.operations for layer in self.layers},
            {form.name: (form.nbytes, form.metric) for form in self.forms},
            self.metric,
            path,
        )


def size(trained: TrainedRun, evaluate: bool = False) -> Size:
    """A model's numbers, bytes, zeros and FLOPs by layer, and its bytes in other forms.

    The forms are bfloat16, int8 and int4 of the weight matrices as `jdl.quantize` keeps them, and
    pruned by magnitude: the numbers that are not 0, and a bit for each. With `evaluate` the run's
    metric is measured for each of them, on its validation set, or else its test set; nothing is
    trained again. The teacher of a distilled model is not counted.
    """
    variables = of_its_own(trained.variables)
    forms = _forms(variables)
    metrics: dict[str, float] = {}
    name = ""
    if evaluate:
        name, metrics = _evaluated(trained, {form: change for form, (change, _) in forms.items()})
    return Size(
        layers_of(variables, _operations(trained)),
        [Form(form, nbytes, metrics.get(form)) for form, (_, nbytes) in forms.items()],
        name,
    )


def of_its_own(variables: Variables) -> Variables:
    """The variables without the teacher of a distilled model, and without states by row."""
    return {name: v for name, v in variables.items() if name not in (CACHE, TEACHER)}


def layers_of(variables: Variables, operations: Counter[str]) -> list[Layer]:
    """The layers in the order of the variables; each has the operations of the scopes within it."""
    arrays: dict[str, list[Any]] = {}
    for path, leaf in by_path(variables).items():
        arrays.setdefault(layer_of(path), []).append(leaf)
    done: Counter[str] = Counter()
    for scope, count in operations.items():
        done[layer_of_scope(scope, arrays)] += count
    layers = [
        Layer(
            name,
            sum(leaf.size for leaf in leaves),
            _bytes(leaves),
            sum(int((np.asarray(leaf) == 0).sum()) for leaf in leaves),
            done.pop(name, 0),
        )
        for name, leaves in arrays.items()
    ]
    return layers + [Layer(name, 0, 0, 0, count) for name, count in sorted(done.items())]


def layer_of(path: str) -> str:
    """The layer of a variable: its path without its own name; collections but "params" stay."""
    layer = path.removeprefix("params/").rpartition("/")[0]
    return layer or path


def layer_of_scope(scope: str, layers: Any) -> str:
    """The layer of a scope like "/GPT/stack/block_0/block_0._add/attention/attention._heads".

    Scopes have the modules' names, those of methods after a dot, and last those within a layer:
    as much of it is taken as is the name of a layer, or of what holds layers.
    """
    parts: list[str] = []
    for part in scope.split("/")[2:]:
        module = part.partition(".")[0]
        if module and module != (parts or [""])[-1]:
            parts.append(module)
    for end in range(len(parts), 0, -1):
        name = "/".join(parts[:end])
        if any(layer == name or layer.startswith(f"{name}/") for layer in layers):
            return name
    return REST


def _operations(trained: TrainedRun) -> Counter[str]:
    return operations_of_row(trained.objective, trained.variables, trained.run.train.spec)


def operations_of_row(objective: Objective, variables: Variables, spec: Batch) -> Counter[str]:
    """The FLOPs for a row by scope, of a prediction; of the loss where there are none."""
    key = jax.random.key(0)

    def run(variables: Variables, batch: Batch) -> Any:
        if isinstance(objective, Predicts):
            return objective.predict(variables, batch)
        return objective.loss(variables, batch, key, False).loss

    found = operations_by_scope(jax.jit(run).trace(variables, spec).jaxpr.jaxpr)
    rows = len(next(iter(spec.values())))
    return Counter({scope: count // rows for scope, count in found.items()})


def _forms(variables: Variables) -> dict[str, tuple[Change, int]]:
    """By name, the forms: how the variables are changed, and the bytes that they take."""
    now = _bytes(variables)
    forms: dict[str, tuple[Change, int]] = {"as it is": (lambda v: v, now)}
    half = jax.eval_shape(_bfloat16, variables)
    forms["bfloat16"] = (lambda v: jax.tree.map(_float32, _bfloat16(v)), _bytes(half))
    matrices = prunable(variables["params"]) if "quantized" not in variables else {}
    for bits in (8, 4) if matrices else ():
        even = [path for path, x in matrices.items() if bits == 8 or x.shape[-2] % 2 == 0]
        if even:
            targets = "|".join(f"^params/{re.escape(path)}$" for path in even)
            quantize = partial(quantize_variables, targets=targets, bits=bits)
            change = partial(_requantized, quantize)
            forms[f"int{bits}"] = (change, _bytes(jax.eval_shape(quantize, variables)))
    weights = sum(x.size for x in matrices.values())
    for sparsity in SPARSITIES if matrices else ():
        zeros = max(int(sparsity * weights), sum(int((x == 0).sum()) for x in matrices.values()))
        width = next(iter(matrices.values())).dtype.itemsize
        change = partial(prune_variables, sparsity=sparsity)
        forms[f"{sparsity:.0%} pruned"] = (change, now - zeros * width + weights // 8)
    return forms


def _requantized(quantize: Change, variables: Variables) -> Variables:
    return dequantize_variables(quantize(variables))


def _bfloat16(variables: Variables) -> Variables:
    params = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, variables["params"]
    )
    return {**variables, "params": params}


def _float32(x: Any) -> Any:
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


@dataclass(frozen=True, eq=False)
class _Changed(Wrapper):
    """A learner that is evaluated with changed variables."""

    change: Change

    def eval_variables(self, state: State) -> Variables:
        return self.change(self.learner.eval_variables(state))


def _evaluated(trained: TrainedRun, changes: dict[str, Change]) -> tuple[str, dict[str, float]]:
    """The name of the metric and its split, and the metric after each change."""
    run = trained.run
    data, split = (run.test, "test") if run.valid is None else (run.valid, "valid")
    if data is None:
        raise Error("This run has neither a validation nor a test set to measure a metric on.")
    metric = run.best.partition(" ")[2]

    def measured(learner: Learner) -> float:
        return scalars(evaluator(learner, data)(trained.state))[metric]

    found = {name: measured(_Changed(run.learner, change)) for name, change in changes.items()}
    return f"{split} {metric}", found


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
