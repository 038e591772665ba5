"""An extension of griffe: Flax modules get the constructor that Flax makes of their fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import griffe


class FlaxModules(griffe.Extension):
    """Gives each subclass of `nn.Module` an `__init__` with its annotated fields as parameters."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called once the whole package is loaded, so that base classes are known."""
        for cls in _classes(pkg):
            bases = [*reversed(cls.mro()), cls]
            if any(str(base).endswith("nn.Module") for c in bases for base in c.bases):
                fields = {name: field for c in bases for name, field in _fields(c)}
                self_ = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
                parameters = griffe.Parameters(self_, *(_parameter(f) for f in fields.values()))
                cls.set_member("__init__", griffe.Function("__init__", parameters=parameters))


def _classes(module: griffe.Module) -> Iterator[griffe.Class]:
    for member in module.members.values():
        if isinstance(member, griffe.Class):
            yield member
        elif isinstance(member, griffe.Module) and not member.is_alias:
            yield from _classes(member)


def _fields(cls: griffe.Class) -> Iterator[tuple[str, griffe.Attribute]]:
    for name, member in cls.members.items():
        if (
            isinstance(member, griffe.Attribute)
            and member.annotation
            and "property" not in member.labels
        ):
            yield name, member


def _parameter(field: griffe.Attribute) -> griffe.Parameter:
    return griffe.Parameter(
        field.name,
        annotation=field.annotation,
        kind=griffe.ParameterKind.positional_or_keyword,
        default=field.value,
    )
