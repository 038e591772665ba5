"""The layers of a model as a table: output shapes, parameters, bytes, FLOPs (`nn.tabulate`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax

from jdl.inspect.sanity.subject import Subject
from jdl.inspect.size import Layer, layers_of, of_its_own, operations_of_row


@dataclass(frozen=True)
class LayerShape:
    """A layer: its path and type, the shapes and types of its outputs, and its `Layer`."""

    name: str
    type: str
    output: str
    size: Layer | None


@dataclass
class _Shapes:
    """The outputs of the modules of Flax Linen, in the order in which they return."""

    found: dict[str, tuple[str, str]] = field(default_factory=dict)

    def record(
        self,
        call: Callable[..., Any],
        args: Any,
        kwargs: Any,
        context: nn.module.InterceptorContext,
    ) -> Any:
        output = call(*args, **kwargs)
        name = "/".join(context.module.path)
        if context.method_name == "__call__" or name not in self.found:
            self.found[name] = (type(context.module).__name__, describe(output))
        return output


def layer_shapes(subject: Subject) -> list[LayerShape]:
    """The layers in the order of their calls, then those whose calls are not seen.

    Nothing is computed. Shapes are those of modules of Flax Linen; FLOPs are of one row.
    """
    spec, shapes = subject.run.train.spec, _Shapes()
    state = jax.eval_shape(lambda: subject.start)
    variables = jax.eval_shape(subject.variables, state)
    own = of_its_own(subject.variables(subject.start))
    operations: Counter[str] = Counter()
    if subject.has_rows:
        with nn.intercept_methods(shapes.record):
            operations = operations_of_row(subject.learner.objective, variables, spec)
    sizes = {layer.name: layer for layer in layers_of(own, operations)}
    layers = [
        LayerShape(name, type_, output, sizes.pop(name, None))
        for name, (type_, output) in shapes.found.items()
        if name
    ]
    return layers + [LayerShape(name, "", "", layer) for name, layer in sizes.items()]


def describe(output: Any) -> str:
    """The shapes and types of a module's output."""
    leaves = [leaf for leaf in jax.tree.leaves(output) if hasattr(leaf, "dtype")]
    shown = [f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]" for leaf in leaves[:2]]
    return " ".join(shown) + (f" + {len(leaves) - 2}" if len(leaves) > 2 else "")


def table(layers: list[LayerShape]) -> list[str]:
    """The layers as lines of text, and their sums."""
    if not layers:
        return []
    names = [f"{layer.name} ({layer.type})" if layer.type else layer.name for layer in layers]
    width = max(5, *map(len, names))
    outputs = max(6, *(len(layer.output) for layer in layers))
    counts = f"  {'parameters':>11}  {'kB':>9}  {'MFLOP a row':>11}"
    lines = [f"{'layer':<{width}}  {'output':<{outputs}}{counts}"]
    for name, layer in zip(names, layers, strict=True):
        line = f"{name:<{width}}  {layer.output:<{outputs}}"
        lines.append(line + (_counts(layer.size) if layer.size else ""))
    sizes = [layer.size for layer in layers if layer.size]
    sums = (sum(getattr(s, n) for s in sizes) for n in ("numbers", "nbytes", "zeros", "operations"))
    lines.append(f"{'total':<{width}}  {'':<{outputs}}{_counts(Layer('total', *sums))}")
    return [line.rstrip() for line in lines]


def _counts(size: Layer) -> str:
    return f"  {size.numbers:>11,}  {size.nbytes / 1e3:>9,.1f}  {size.operations / 1e6:>11,.3f}"
