"""The reader of XLA's compiled text (optimized HLO): computations, instructions, loops."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
BRANCHES = re.compile(r"\b(?:true_computation|false_computation)=%?([\w.\-]+)")
LISTED = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class ArrayType:
    """An array in the text: its type, its number of elements, and whether it lies in HBM."""

    dtype: str
    size: int
    in_hbm: bool  # else in the memory on the chip (VMEM), which the text calls S(1)

    @property
    def nbytes(self) -> int:
        """Its bytes, without padding."""
        return -(-self.size * bits(self.dtype) // 8)


def bits(dtype: str) -> int:
    """The bits of a number of a type: 8 of pred, 16 of bf16, 8 of f8e4m3fn."""
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 8


def arrays(text: str) -> list[ArrayType]:
    """The arrays of a type as the text has it: of one array or of a tuple."""
    return [
        ArrayType(dtype, math.prod(int(n) for n in shape.split(",") if n), "S(" not in layout)
        for dtype, shape, layout in ARRAY.findall(text)
    ]


@dataclass(frozen=True)
class Instruction:
    """An instruction of a computation."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str  # all that stands after the operands
    is_root: bool

    @property
    def arrays(self) -> list[ArrayType]:
        """What it gives."""
        return arrays(self.type)

    @property
    def called(self) -> list[str]:
        """The computations that it calls, but for those of a loop."""
        names = CALLED.findall(self.attributes) + BRANCHES.findall(self.attributes)
        for listed in LISTED.findall(self.attributes):
            names += re.findall(r"[\w.\-]+", listed)
        return names

    def attribute(self, name: str) -> str:
        """The name that an attribute such as body=%region_1 has; "" without it."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""


@dataclass(frozen=True)
class Program:
    """A compiled program: instructions by computation and name, and where it begins."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    @cached_property
    def _walked(self) -> tuple[Counter[str], set[str]]:
        turns: Counter[str] = Counter()
        fused: set[str] = set()

        def visit(name: str, times: int, within: bool) -> None:
            turns[name] += times
            if within:
                fused.add(name)
            for one in self.computations.get(name, {}).values():
                if one.opcode == "while":
                    visit(one.attribute("body"), times * self.trip_count(one), within)
                    continue
                inside = within or one.opcode not in ("call", "conditional", "async-start")
                for called in one.called:
                    visit(called, times, inside)

        visit(self.entry, 1, False)
        return turns, fused

    @property
    def turns(self) -> Counter[str]:
        """How often each computation runs in a step; of a conditional every branch."""
        return self._walked[0]

    @property
    def fused(self) -> set[str]:
        """The computations within fusions, whose arrays in between are in no memory."""
        return self._walked[1]

    def trip_count(self, loop: Instruction) -> int:
        """The turns of a loop: as XLA notes them, or else the bound of a counter in its condition.

        That is the integer constant of a comparison by "less". Without one it is 1.
        """
        if noted := TURNS.search(loop.attributes):
            return int(noted[1])
        condition = self.computations.get(loop.attribute("condition"), {})
        found = _bounds(condition, [])
        for one in condition.values():
            given = [condition.get(name) for name in one.operands]
            for name in one.called:
                found += _bounds(self.computations.get(name, {}), given)
        return max(found, default=1)

    def operand_arrays(self, computation: str, one: Instruction) -> list[list[ArrayType]]:
        """The arrays of each operand of an instruction."""
        within = self.computations[computation]
        return [within[name].arrays if name in within else [] for name in one.operands]


def _bounds(part: dict[str, Instruction], given: list[Instruction | None]) -> list[int]:
    """The integer constants below which a computation, given some, compares a number to be."""
    found = []
    for one in part.values():
        if one.opcode != "compare" or one.attribute("direction") != "LT":
            continue
        bound = part.get(one.operands[1])
        if bound and bound.opcode == "parameter" and given:
            bound = given[int(bound.operands[0])]
        if bound and bound.opcode == "constant" and bound.type[0] in "su":
            found.append(int(bound.operands[0]))
    return found


def read(text: str) -> Program:
    """Reads the text that a compiled program gives of itself: `compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if head := HEAD.match(line):
            name = head[2]
            computations[name] = {}
            entry = name if head[1] else entry
        elif found := INSTRUCTION.match(line):
            root, own, kind, opcode, rest = found.groups()
            inside, attributes = _split_operands(rest)
            operands = re.findall(r"%([\w.\-]+)", inside) or [inside.strip()]
            one = Instruction(own, kind, opcode, tuple(operands), attributes, bool(root))
            computations.setdefault(name, {})[own] = one
    return Program(computations, entry)


def _split_operands(rest: str) -> tuple[str, str]:
    """The text within the brackets that are open, and what stands after them."""
    depth = 1
    for n, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return rest[:n], rest[n + 1 :]
    return rest, ""


def each(program: Program) -> Iterator[tuple[str, Instruction, int]]:
    """The instructions that run: the computation of each, and how often in a step."""
    for name, times in program.turns.items():
        for one in program.computations.get(name, {}).values():
            yield name, one, times
