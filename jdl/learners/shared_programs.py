"""Compiled programs that many runs share: those of a study, which differ in seeds and numbers.

A run traces its training step in a tenth of a second, and XLA compiles it in several. Runs whose
traces are equal need one program. So do runs whose traces differ only in some floating-point
numbers (learning rate, weight decay, the betas of Adam, the rate of dropout): these become
arguments of a program that is compiled once.

To the bit: XLA may compute with a constant otherwise than with an argument, for instance multiply
two constants beforehand. So a program with arguments is used only after it has given the bits of
one with constants over some steps, for numbers with many digits: with a power of two both orders of
a product have the same bits. Whole and half numbers always stay constants: for them XLA has
rules of their own (x ** 0.5 is a square root).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

CHECKED_STEPS = 10  # that a program with arguments is compared for
OTHER = 0.9317824  # the numbers of this comparison, of those of a run: near them, and no power of 2
Place = tuple[int, ...]  # of a constant: its equation, and the input; in a loop, the loop before
Numbers = dict[Place, float]
Function = Callable[..., Any]


@dataclass
class SharedPrograms:
    """The compiled programs of several runs, by what XLA is given to compile."""

    compiled: dict[Any, Function] = field(default_factory=dict)
    first: dict[Any, Numbers] = field(default_factory=dict)  # of the first trace, by structure
    equal: dict[Any, bool] = field(default_factory=dict)  # to the bit: programs with arguments
    reused: int = 0

    def find(self, function: Function, args: tuple[Any, ...], donated: tuple[int, ...]) -> Function:
        """The program of a function for arguments of these shapes."""
        traced = jax.jit(function, donate_argnums=donated).trace(*args)
        numbers, structure = numbers_of(traced.jaxpr), _structure(traced)
        first = self.first.setdefault(structure, numbers)
        differing = {place: n for place, n in numbers.items() if n != first[place]}
        if differing:
            lifted = lift(traced, function.__name__, tuple(differing))
            jitted = jax.jit(lifted, donate_argnums=tuple(n + 1 for n in donated))
            key, program = self._compile(jitted.lower([*differing.values()], *args))
            if key not in self.equal:
                others = [np.float32(OTHER * number) for number in differing.values()]
                constant = jax.jit(lambda *args: lifted(others, *args)).lower(*args).compile()
                calls = constant, _bind(program, others)
                self.equal[key] = len({_digest(call, args, donated) for call in calls}) == 1
            if self.equal[key]:
                return _bind(program, [*differing.values()])
        return self._compile(traced.lower())[1]

    def _compile(self, lowered: Any) -> tuple[Any, Function]:
        digest = hashlib.sha256(lowered.as_text().encode()).digest()
        key = (digest, lowered.in_tree, lowered.out_tree)
        self.reused += key in self.compiled
        if key not in self.compiled:
            self.compiled[key] = lowered.compile()
        return key, self.compiled[key]

    def summary(self) -> str:
        """What was compiled, and what was not, in one line."""
        alone = sum(not equal for equal in self.equal.values())
        unequal = f"; {alone} with arguments gave other bits and were not used" if alone else ""
        return f"Compiled {len(self.compiled)} programs, used {self.reused} times again{unequal}"


@dataclass
class SharedFunction:
    """A function whose program is found at its first call, and again for other shapes."""

    function: Function
    donated: tuple[int, ...]
    programs: SharedPrograms
    call: Function | None = None

    def __call__(self, *args: Any) -> Any:
        """Calls the program."""
        if self.call is not None:
            try:
                return self.call(*args)
            except TypeError:  # for other shapes or types, raised before it begins
                pass
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):
            return jax.jit(self.function)(*args)  # for instance within `jax.eval_shape`
        self.call = self.programs.find(self.function, args, self.donated)
        return self.call(*args)


_programs: ContextVar[SharedPrograms | None] = ContextVar("shared_programs", default=None)


@contextmanager
def share_programs(programs: SharedPrograms) -> Iterator[None]:
    """Within it, runs that train on one device take their programs from these."""
    token = _programs.set(programs)
    try:
        yield
    finally:
        _programs.reset(token)


def jit(function: Function, donate_argnums: tuple[int, ...] = ()) -> Function:
    """`jax.jit`; within `share_programs`, of a program that runs share."""
    programs = _programs.get()
    if programs is None:
        return jax.jit(function, donate_argnums=donate_argnums)
    return SharedFunction(function, donate_argnums, programs)


def numbers_of(closed: ClosedJaxpr) -> Numbers:
    """The constants of a jaxpr that may be arguments, by their places; also those in its loops."""
    found: Numbers = {}
    for i, equation in enumerate(closed.jaxpr.eqns):
        for j, value in enumerate(equation.invars):
            if _is_number(value):
                found[i, j] = float(value.val)
        if _is_loop(equation):
            body = numbers_of(equation.params["body_jaxpr"])
            found |= {(i, *place): number for place, number in body.items()}
    return found


def _is_loop(equation: Any) -> bool:
    """Whether it is a loop whose body can be evaluated with other numbers."""
    return equation.primitive is jax.lax.while_p


def _is_number(value: Any) -> bool:
    """Whether it is a float32 constant, and no whole or half number."""
    aval: Any = value.aval
    if not isinstance(value, Literal) or aval.shape or aval.dtype != jnp.float32:
        return False
    return bool(np.isfinite(value.val)) and not float(2 * value.val).is_integer()


def _structure(traced: Any) -> Any:
    """What traces that differ only in their numbers have in common."""
    closed = traced.jaxpr
    return traced.fun_name, _equations(closed), str(closed.in_avals), str(closed.out_avals)


def _equations(closed: ClosedJaxpr) -> Any:
    """The equations of a jaxpr, by primitive and kinds of inputs; of loops also those within."""

    def kind(value: Any) -> str:
        if not isinstance(value, Literal):
            return "array"
        return "number" if _is_number(value) else str(value)

    return tuple(
        (
            one.primitive.name,
            *map(kind, one.invars),
            _equations(one.params["body_jaxpr"]) if _is_loop(one) else (),
        )
        for one in closed.jaxpr.eqns
    )


def lift(traced: Any, name: str, places: tuple[Place, ...]) -> Function:
    """The traced function with the constants at some places as its first argument."""
    closed, out_tree = traced.jaxpr, jax.tree.structure(traced.out_info)

    def lifted(numbers: list[Any], *args: Any) -> Any:
        given = dict(zip(places, numbers, strict=True))
        return jax.tree.unflatten(out_tree, _evaluate(closed, given, jax.tree.leaves(args)))

    lifted.__name__ = name
    return lifted


def _evaluate(closed: ClosedJaxpr, numbers: Mapping[Place, Any], inputs: list[Any]) -> list[Any]:
    """Evaluates a jaxpr, with other values at the places of some constants."""
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *inputs], strict=True))

    def read(value: Any) -> Any:
        return value.val if isinstance(value, Literal) else values[value]

    for i, equation in enumerate(jaxpr.eqns):
        given = [
            numbers[i, j] if (i, j) in numbers else read(value)
            for j, value in enumerate(equation.invars)
        ]
        inner = {place[1:]: n for place, n in numbers.items() if place[0] == i and len(place) > 2}
        with equation.ctx.manager:
            outputs = _evaluate_loop(equation, inner, given) if inner else _outputs(equation, given)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(value) for value in jaxpr.outvars]


def _outputs(equation: Any, given: list[Any]) -> list[Any]:
    """What an equation gives."""
    params = equation.primitive.get_bind_params(equation.params)
    outputs = equation.primitive.bind(*given, **params)
    return outputs if equation.primitive.multiple_results else [outputs]


def _evaluate_loop(equation: Any, numbers: Mapping[Place, Any], given: list[Any]) -> list[Any]:
    """What a loop gives, with other values at the places of some constants of its body."""
    params = equation.params
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    of_condition, of_body, carried = given[:first], given[first:second], given[second:]
    return jax.lax.while_loop(
        lambda now: _evaluate(params["cond_jaxpr"], {}, [*of_condition, *now])[0],
        lambda now: _evaluate(params["body_jaxpr"], numbers, [*of_body, *now]),
        carried,
    )


def _bind(program: Function, numbers: list[Any]) -> Function:
    """A program with these numbers, which are put on the device once."""
    on_device = jax.device_put(numbers)
    return lambda *args: program(on_device, *args)


def _digest(call: Function, args: tuple[Any, ...], donated: tuple[int, ...]) -> str:
    """SHA-256 of what a program gives; a step, which donates its state, is repeated."""
    digest, (first, *rest) = hashlib.sha256(), args
    for _ in range(CHECKED_STEPS if donated else 1):
        outputs = call(jax.tree.map(jnp.copy, first) if donated else first, *rest)
        for leaf in jax.tree.leaves(outputs):
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            digest.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
        first = outputs[0] if donated else first
    return digest.hexdigest()
