"""The code of a run that a notebook or a plain script trained by `jdl.fit(run(c))`.

Such a run has no script that could be imported, because that would train again. What the function
`run` needs is collected from the cells, or from the script: definitions, imports, assignments, and
calls of methods.
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import linecache
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

from jdl.run import Run

NAME = "notebook.py"  # of the collected cells
END = sys.maxsize  # a place after all statements
LOADS = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
CELL_MAGICS = ("time", "capture", "prun")  # whose cells are Python
BINDINGS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
)


class CodeNotFoundError(Exception):
    """Why the code of a run cannot be collected."""


def notebook_code(run: Run) -> tuple[Path, bytes] | None:
    """A path for the code of a run, and its text; None where `__main__` did not call `jdl.fit`.

    Raises `CodeNotFoundError` where the function that made the run, or what it needs, is not found.
    """
    main = sys.modules["__main__"]
    call = _call_of_fit(main)
    if call is None:
        return None
    cells = _cells(main)
    maker = _maker(call, cells, vars(main))
    code = _Code(cells, vars(main))
    config, module = type(run.config).__name__, type(run.config).__module__
    code.need(maker, END)
    if module == "__main__":
        code.need(config, END)
        alias = f"Config = {config}"
    else:
        alias = f"from {module} import {config} as Config"
    ends = [alias] if alias != "Config = Config" else []
    ends += [f"run = {maker}"] if maker != "run" else []
    file = getattr(main, "__file__", None)
    path = Path.cwd() / NAME if "In" in vars(main) or not file else Path(file)
    return path, code.text(ends).encode()


def _cells(main: ModuleType) -> list[str]:
    """The code of the cells in the order in which they ran, or that of the script."""
    inputs, file = vars(main).get("In"), getattr(main, "__file__", None)
    if isinstance(inputs, list):
        return [_without_cell_magic(cell) for cell in inputs]
    if file and Path(file).is_file():
        return [Path(file).read_text()]
    raise CodeNotFoundError("there are neither cells nor a script")


def _without_cell_magic(cell: str) -> str:
    """The Python of a cell: IPython has `%%time` as a call with the cell's text."""
    match _parse(cell).body:
        case [ast.Expr(ast.Call(ast.Attribute(attr="run_cell_magic"), [name, _, text]))]:
            if isinstance(text, ast.Constant) and ast.literal_eval(name) in CELL_MAGICS:
                return str(text.value)
    return cell


def _call_of_fit(main: ModuleType) -> ast.Call | None:
    """The call of `jdl.fit` in `__main__` that this process is in, found by its place."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals is not vars(main):
        frame = frame.f_back
    if frame is None:
        return None
    place = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    tree = _parse("".join(linecache.getlines(frame.f_code.co_filename)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _place(node) == place:
            names = {**vars(main), **frame.f_locals}
            return node if _calls(node, names, "fit") else None
    return None


def _place(node: ast.Call) -> tuple[int | None, ...]:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def _calls(call: ast.Call, namespace: dict[str, Any], *names: str) -> bool:
    """Whether a function of jdl of one of these names is called, by whatever name."""
    package = sys.modules["jdl"]  # which imports this module
    called = _object(call.func, namespace)
    return any(called is getattr(package, name) for name in names)


def _object(value: ast.expr, namespace: dict[str, Any]) -> Any:
    """The object that a name, or a dotted name that begins with a module, stands for now."""
    match value:
        case ast.Name(name):
            return namespace.get(name)
        case ast.Attribute(before, name):
            owner = _object(before, namespace)
            return getattr(owner, name, None) if isinstance(owner, ModuleType) else None
    return None


def _parse(text: str) -> ast.Module:
    """The syntax tree; empty for a cell that was no Python, and so did nothing."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.Module([], [])


def _maker(call: ast.Call, cells: list[str], namespace: dict[str, Any]) -> str:
    """The name of the function of one argument that made the run which `jdl.fit` is given."""
    nodes = [node for cell in cells for node in ast.walk(_parse(cell))]

    def makers(value: ast.expr, seen: tuple[str, ...]) -> Iterator[str]:
        match value:
            case ast.Call(ast.Name("replace"), [first], [ast.keyword("hooks")]):
                yield from makers(first, seen)
            case ast.Call(ast.Name(name)) if _has_one_argument(value) and inspect.isfunction(
                namespace.get(name)
            ):
                yield name
            case ast.Name(name) if name not in seen:
                for node in nodes:
                    if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
                        yield from makers(node.value, (*seen, name))
            case ast.Name():
                return
            case _:
                yield ast.unparse(value)

    given = [*call.args[:1], *(k.value for k in call.keywords if k.arg == "run")]
    found = {name for value in given for name in makers(value, ())}
    if len(found) != 1 or not min(found).isidentifier():
        raise CodeNotFoundError(
            "it is not clear which function made the run: define run(c), of the config alone, and "
            "call jdl.fit(run(c))"
        )
    return found.pop()


def _has_one_argument(call: ast.Call) -> bool:
    given = [*call.args, *(k for k in call.keywords if k.arg)]
    return len(given) == len(call.args) + len(call.keywords) == 1 and not isinstance(
        given[0], ast.Starred
    )


class _Code:
    """The statements of the cells, and those of them that are needed."""

    def __init__(self, cells: list[str], namespace: dict[str, Any]) -> None:
        self.namespace, self.kept, self.seen = namespace, set[int](), set[tuple[str, int]]()
        self.statements = [
            (node, cell)
            for cell in cells
            for node in _parse(cell).body
            if _binds(node) or self._changed(node)
        ]

    def need(self, name: str, place: int) -> None:
        """Keeps what binds a name before a place, and what that needs in turn."""
        if (name, place) in self.seen:
            return
        self.seen.add((name, place))
        places = [
            n
            for n, (node, _) in enumerate(self.statements[:place])
            if name in {*_names(node), *self._changed(node)}
        ]
        if not places:
            if name in self.namespace and not hasattr(builtins, name) and name[:2] != "__":
                raise CodeNotFoundError(
                    f"{name} is bound by no definition, import or assignment at the top level of a "
                    "cell"
                )
            return
        node, _ = self.statements[places[-1]]
        for call in ast.walk(node) if not _is_definition(node) else ():
            if isinstance(call, ast.Call) and _calls(call, self.namespace, "fit", "main"):
                raise CodeNotFoundError(f"{name} is the result of a training")
        self.kept.add(places[-1])
        at_once, later = _loads(compile(ast.Module([node], []), "", "exec", dont_inherit=True))
        for used in at_once:
            self.need(used, places[-1])
        for used in later:
            self.need(used, place)

    def _changed(self, node: ast.stmt) -> set[str]:
        """The name whose object a call of its method may change: `sizes.append(64)`."""
        match node:
            case ast.Expr(ast.Call(ast.Attribute(owner))):
                is_function = isinstance(_object(owner, self.namespace), ModuleType)  # np.save(...)
                return set() if is_function else set(_targets(owner))
        return set()

    def text(self, ends: list[str]) -> str:
        """The needed statements in their order, and these lines at the end."""
        first, rest = [], []
        for n, (node, cell) in enumerate(self.statements):
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                first.append(ast.unparse(node))
            elif n in self.kept or "*" in set(_names(node)):
                rest.append(_source(node, cell))
        return "\n".join([*dict.fromkeys(first), *rest, *ends]) + "\n"


def _is_definition(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _binds(node: ast.stmt) -> bool:
    """Whether a statement binds names, and does nothing else: `if` and `try` around imports too."""
    if isinstance(node, ast.If | ast.Try):
        inner = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
        inner += [s for h in getattr(node, "handlers", []) for s in h.body]
        return all(_binds(n) or isinstance(n, ast.Pass) for n in inner)
    return isinstance(node, BINDINGS)


def _names(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds, or whose objects it changes."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Import() | ast.ImportFrom():
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0]
        case ast.Assign():
            for target in node.targets:
                yield from _targets(target)
        case ast.AnnAssign() | ast.AugAssign():
            yield from _targets(node.target)
        case ast.If() | ast.Try() | ast.ExceptHandler():
            for child in ast.iter_child_nodes(node):
                yield from _names(child)


def _targets(target: ast.expr) -> Iterator[str]:
    """The names in the target of an assignment: a, (a, b), a[0] and a.b."""
    match target:
        case ast.Name(name):
            yield name
        case ast.Tuple(elements) | ast.List(elements):
            for element in elements:
                yield from _targets(element)
        case ast.Subscript(value) | ast.Attribute(value) | ast.Starred(value):
            yield from _targets(value)


def _loads(code: CodeType) -> tuple[set[str], set[str]]:
    """The global names that code uses when it runs, and when functions defined in it are called."""
    at_once = {i.argval for i in dis.get_instructions(code) if i.opname in LOADS}
    later = set[str]()
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            first, second = _loads(inner)
            is_function = inner.co_flags & 1 and inner.co_name not in COMPREHENSIONS
            later |= second | (first if is_function else set())
            at_once |= set() if is_function else first
    return at_once, later


def _source(node: ast.stmt, cell: str) -> str:
    """The lines of a statement with its decorators, or its code where it shares a line."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    lines = cell.splitlines()[first - 1 : node.end_lineno]
    alone = _parse("\n".join(lines)).body
    return "\n".join(lines) if len(alone) == 1 else ast.unparse(node)
