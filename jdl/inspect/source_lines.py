"""Whose an instruction of a compiled program is: its layer, its operation, its line of code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jdl.inspect.hlo import Instruction, Program, read
from jdl.layers import __path__ as layers_folder

CONTROL = ("while", "conditional", "call")  # what they run are instructions of their own
TRANSFORMED = re.compile(r"^((?:(?:transpose|jvp|vmap)\()+)([\w.]*)\)+$")
LAYER = re.compile(r"^[A-Za-z_]\w*$")
METHOD = re.compile(r"^\w+\.\w+$")  # of a layer: attention.attend, which is no layer
INNER = re.compile(
    r"^(jit\(step\)|cond|while|body|closed_call|eval_jaxpr|checkpoint|rematted_.*|branch_.*)$"
)
"""What JAX calls the step, and the parts of loops, conditionals and recomputation: no layers."""


@dataclass(frozen=True)
class Origin:
    """Whose an instruction is; a fusion of several is known by the last of them."""

    layer: str  # the path of the module or the `jax.named_scope`; "" outside of any
    backward: bool
    operation: str  # of JAX: conv_general_dilated, add, ...
    source: str  # file:line


def origins(text: str) -> dict[str, Origin]:
    """The origin of each instruction in a compiled program's text, but for loops and branches."""
    frames, program = _Frames(text), read(text)
    return {
        name: _origin(_named(one, program), frames)
        for computation in program.computations.values()
        for name, one in computation.items()
        if one.opcode not in CONTROL
    }


def _named(one: Instruction, program: Program) -> Instruction:
    """The instruction; of a fusion without a name the last one of it that has one, or its root."""
    if "op_name" in one.attributes or not one.called:
        return one
    fused = list(program.computations.get(one.called[0], {}).values())
    named = [part for part in fused if "op_name" in part.attributes or part.is_root]
    return named[-1] if named else one


def _origin(one: Instruction, frames: _Frames) -> Origin:
    scope = re.search(r'op_name="([^"]*)"', one.attributes)
    frame = re.search(r"stack_frame_id=(\d+)", one.attributes)
    layer, backward, operation = read_scope(scope[1] if scope else one.opcode)
    return Origin(layer, backward, operation, frames.source(int(frame[1])) if frame else "")


def read_scope(name: str) -> tuple[str, bool, str]:
    """The (layer, whether it is the backward pass, operation) of an instruction's `op_name`.

    `jit(step)/transpose(jvp(CNN))/Conv_1/cond/mul` is a multiplication of CNN/Conv_1, backward.
    """
    *parts, operation = name.split("/")
    path, backward = list[str](), False
    for part in parts:
        if found := TRANSFORMED.match(part):
            backward |= "transpose" in found[1]
            part = found[2]
        if LAYER.match(part) and not INNER.match(part):
            path.append(part)
        elif part and not INNER.match(part) and not METHOD.match(part):
            break
    return "/".join(path), backward, operation


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
        # XLA prints the number of the parent plus 1: a frame without a parent has 1.
        self.shift = int(any(number == up for number, (_, up) in self.frames.items()))

    def source(self, frame: int) -> str:
        """The innermost line that is of a model or an experiment: not of a library or a layer."""
        lines = []
        while frame in self.frames:
            at, parent = self.frames[frame]
            file, line = self.locations[at]
            lines.append((self.files[file], line))
            frame = parent - self.shift
        own = [(file, line) for file, line in lines if not _is_library(file)]
        file, line = (own or lines or [("", "")])[0]
        return f"{_short(file)}:{line}" if file else ""


def _is_library(file: str) -> bool:
    installed = "/site-packages/" in file and "/site-packages/jdl/" not in file
    return installed or any(file.startswith(folder) for folder in layers_folder)


def _short(file: str) -> str:
    """A file of jdl from there on, another from this folder if it is in it."""
    package = Path(layers_folder[0]).parent.parent
    for folder in (Path.cwd(), package):
        if Path(file).is_relative_to(folder):
            return str(Path(file).relative_to(folder))
    return file
