"""HBM traffic of a compiled program: the bytes that a step reads from memory and writes to it."""

from __future__ import annotations

from collections.abc import Iterator

from jdl.inspect.hlo import ArrayType, Instruction, Program, each

FREE = (  # they move nothing, or what they call or start is counted
    "parameter",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "constant",
    "while",
    "call",
    "conditional",
    "after-all",
    "partition-id",
    "replica-id",
    "async-start",
)
WITH_OPERANDS = (
    "copy-start",
    "all-gather-start",
    "all-to-all-start",
    "collective-permute-start",
    "reduce-scatter-start",
)
"""What gives its operands beside its result, in a tuple."""
SLICE, UPDATE = "dynamic-slice", "dynamic-update-slice"


def traffic(program: Program) -> int:
    """Bytes that the instructions read and write in HBM, those of loops as often as they turn.

    What a fusion computes in between stays on the chip. Of an array that is sliced, or updated in
    place, the slice counts. Padding and caches are not known: it is an estimate.
    """
    return sum(times * max(0, _moved(program, name, one)) for name, one, times in _moving(program))


def kernels(program: Program) -> int:
    """The kernels that a GPU starts in a step: each instruction that moves bytes counts as one."""
    return sum(times for _, _, times in _moving(program))


def _moving(program: Program) -> Iterator[tuple[str, Instruction, int]]:
    """The instructions that move anything: the computation of each, and how often it runs."""
    for name, one, times in each(program):
        free = one.opcode in FREE or one.opcode.endswith("-done")
        if not free and name not in program.fused:
            yield name, one, times


def _moved(program: Program, name: str, one: Instruction) -> int:
    operands = [_nbytes(part) for part in program.operand_arrays(name, one)]
    written = _nbytes(one.arrays)
    if one.opcode in (SLICE, "slice", "gather"):
        return 2 * written
    if one.opcode == UPDATE:
        return 2 * operands[1]
    if one.opcode in WITH_OPERANDS:
        return written  # of the result, and of the operands that it reads
    if one.opcode != "fusion":
        return written + sum(operands)
    body = program.computations.get(one.attribute("calls"), {})
    return written - _kept(body) + _read(body, operands)


def _kept(body: dict[str, Instruction]) -> int:
    """The bytes of a fusion's results that are updated in place, beside those that are new."""
    kept = 0
    for one in body.values():
        if one.opcode == UPDATE and one.operands[1] in body:
            kept += max(0, _nbytes(one.arrays) - _nbytes(body[one.operands[1]].arrays))
    return kept


def _read(body: dict[str, Instruction], operands: list[int]) -> int:
    """The bytes that a fusion reads of its operands: of those that it slices, the slices."""
    slices: dict[str, int] = {}
    for one in body.values():
        if one.opcode == SLICE:
            part = sum(array.nbytes for array in one.arrays)
            slices[one.operands[0]] = slices.get(one.operands[0], 0) + part
        elif one.opcode == UPDATE:
            slices.setdefault(one.operands[0], 0)
    total = 0
    names = {one.operands[0]: one.name for one in body.values() if one.opcode == "parameter"}
    for n, whole in enumerate(operands):
        total += min(whole, slices.get(names.get(str(n), ""), whole))
    return total


def _nbytes(found: list[ArrayType]) -> int:
    return sum(array.nbytes for array in found if array.in_hbm)
