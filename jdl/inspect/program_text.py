"""The instructions of a compiled program: their layer, their line in the code, and their bytes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from jdl.layers import __path__ as layers_folder

CONTROL = ("while", "conditional", "call")  # what they run are instructions of their own
INSTRUCTION = re.compile(r"^ *(?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][a-z0-9-]*)\((.*)$", re.MULTILINE)
SHAPE = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]")
BITS = re.compile(r"\d+")
DIFFERENTIATED = re.compile(r"^(transpose\()?jvp\(([\w.]*)\)+$")
LAYER = re.compile(r"^[A-Za-z_]\w*$")
METHOD = re.compile(r"^\w+\.\w+$")  # of a layer: attention.attend, which is no layer
INNER = ("cond", "while", "body", "closed_call", "checkpoint", "rematted_computation")
"""What JAX calls the parts of loops, conditionals and recomputation: no layers."""


@dataclass(frozen=True)
class Instruction:
    """An instruction of a compiled program; a fusion of several is known by the last of them."""

    opcode: str
    layer: str  # the path of the module or the `jax.named_scope`; "" outside of any
    backward: bool
    operation: str  # of JAX: conv_general_dilated, add, ...
    source: str  # file:line
    bytes: int  # of its operands and its result


def read_instructions(text: str) -> dict[str, Instruction]:
    """The instructions of a compiled program's text (`compiled.as_text()`), by name."""
    frames, found, size = _Frames(text), {}, dict[str, int]()
    lines = list(INSTRUCTION.finditer(text))
    for line in lines:
        size[line[1]] = _bytes(line[2])
    for line in lines:
        name, _, opcode, rest = line.groups()
        scope = re.search(r'op_name="([^"]*)"', rest)
        frame = re.search(r"stack_frame_id=(\d+)", rest)
        layer, backward, operation = read_scope(scope[1] if scope else "")
        operands = re.findall(r"%([\w.-]+)", rest.split("),")[0])
        found[name] = Instruction(
            opcode,
            layer,
            backward,
            operation or opcode,
            frames.source(int(frame[1])) if frame else "",
            size[name] + sum(size.get(operand, 0) for operand in operands),
        )
    return found


def read_scope(name: str) -> tuple[str, bool, str]:
    """The (layer, whether it is the backward pass, operation) of an instruction's `op_name`.

    `jit(step)/transpose(jvp(CNN))/Conv_1/cond/mul` is a multiplication of CNN/Conv_1, backward.
    """
    *parts, operation = name.split("/")
    path, backward = list[str](), False
    for part in parts[1:]:
        differentiated = DIFFERENTIATED.match(part)
        if differentiated and not path:
            backward |= differentiated[1] is not None
            path += filter(None, [differentiated[2]])
        elif LAYER.match(part) and part not in INNER and not part.startswith("branch_"):
            path.append(part)
        elif not METHOD.match(part):
            break
    return "/".join(path), backward, operation


def _bytes(shape: str) -> int:
    """The bytes of a shape such as f32[3,2]{1,0}, or of a tuple of them."""
    return sum(
        math.prod(map(int, filter(None, sizes.split(",")))) * _bits(kind) // 8
        for kind, sizes in SHAPE.findall(shape)
    )


def _bits(kind: str) -> int:
    found = BITS.search(kind)
    return int(found[0]) if found else 8  # pred, a Boolean


class _Frames:
    """The stack frames that a program's text has at its top: whose line an instruction is."""

    def __init__(self, text: str) -> None:
        def table(title: str) -> str:
            found = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
            return found[1] if found else ""

        self.files = dict(re.findall(r'^(\d+) "(.*)"$', table("FileNames"), re.MULTILINE))
        location = re.compile(r"^(\d+) \{file_name_id=(\d+) .*?line=(\d+)", re.MULTILINE)
        self.locations = {n: rest for n, *rest in location.findall(table("FileLocations"))}
        frame = re.compile(r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)", re.MULTILINE)
        self.frames = {int(n): (at, int(up)) for n, at, up in frame.findall(table("StackFrames"))}
        # XLA prints the number of the parent plus 1, so that one without a parent has 1.
        self.shift = int(any(number == up for number, (_, up) in self.frames.items()))

    def source(self, frame: int) -> str:
        """The innermost line that is of a model or an experiment: not of a library or a layer."""
        lines = []
        while frame in self.frames:
            at, parent = self.frames[frame]
            file, line = self.locations[at]
            lines.append((self.files[file], line))
            frame = parent - self.shift if parent - self.shift < frame else 0
        own = [(file, line) for file, line in lines if not _is_library(file)]
        file, line = (own or lines or [("", "")])[0]
        return f"{file}:{line}" if file else ""


def _is_library(file: str) -> bool:
    installed = "/site-packages/" in file and "/site-packages/jdl/" not in file
    return installed or any(file.startswith(folder) for folder in layers_folder)
