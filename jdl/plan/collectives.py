"""Collectives of a compiled program: what chips send to each other, in bytes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from jdl.inspect.hlo import Instruction, Program, each

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
OPCODES = {f"{kind}{end}": kind for kind in KINDS for end in ("", "-start")}
FUSED_SCATTER = "all-reduce-scatter"  # how a TPU's program names the fusion of a reduce-scatter
NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "s32": "int32", "u32": "uint32"}


@dataclass(frozen=True)
class Collective:
    """A collective operation, or several of one kind, among groups of so many chips.

    `nbytes` is the larger of operand and result, on one chip in one step; `wire` is what one chip
    sends, as in a ring. `loop` is whether they stand within a loop: then they are counted as often
    as it turns.
    """

    kind: str
    dtype: str
    group: int
    loop: bool
    count: int
    nbytes: int
    wire: int


def collectives(program: Program) -> list[Collective]:
    """The collectives of a step, those with most bytes first.

    An asynchronous collective that stands in the text twice has the same kind and `channel_id`
    there, and counts once. The channel alone does not do: XLA gives that of another collective to
    the all-reduce of a fused reduce-scatter.
    """
    found: dict[tuple[str, str, int, bool], list[int]] = {}
    seen: set[tuple[str, str]] = set()
    for computation, one, times in each(program):
        kind = OPCODES.get(one.opcode)
        if kind is None:
            continue
        if kind == "all-reduce" and FUSED_SCATTER in computation:
            kind = "reduce-scatter"
        channel = one.attribute("channel_id")
        if channel and (kind, channel) in seen:
            continue
        seen.add((kind, channel))
        operands = [x for part in program.operand_arrays(computation, one) for x in part]
        if not operands:
            continue
        group, nbytes = group_size(one), sum(x.nbytes for x in operands)
        if kind == "all-gather":
            nbytes *= group
        dtype = max(operands, key=lambda x: x.nbytes).dtype
        total = found.setdefault((kind, NAMES.get(dtype, dtype), group, times > 1), [0, 0, 0])
        for n, value in enumerate((1, nbytes, _wire(kind, nbytes, group))):
            total[n] += times * value
    rows = [Collective(*key, *total) for key, total in found.items()]
    return sorted(rows, key=lambda row: -row.nbytes)


def _wire(kind: str, nbytes: int, group: int) -> int:
    """The bytes that a chip sends in a ring; an all-reduce is a scatter and a gather."""
    if kind == "collective-permute":
        return nbytes
    share = (group - 1) / group
    return round(nbytes * share * (2 if kind == "all-reduce" else 1))


def group_size(one: Instruction) -> int:
    """The number of chips in each of a collective's replica groups, however these are written."""
    text = one.attributes
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", text):  # [groups,size]<=[...]
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", text):  # {{0,1},{2,3}}
        return len(found[1].split(","))
    # mesh['data'=2,'fsdp'=4] {'fsdp'}: by the axes of a mesh
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(axes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"source_target_pairs=\{(.*?)\}\}", text):
        return found[1].count("{")
    return 1
