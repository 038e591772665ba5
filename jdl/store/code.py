"""A copy of the code of an experiment (its script and local modules) in the run's folder.

Runs are rebuilt from this copy, so the original script may be moved, changed or deleted.
"""

from __future__ import annotations

import ast
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from jdl.store.folder import free_name
from jdl.types import Error

FOLDER = "code"


def read_code(script: Path | None, text: bytes | None = None) -> dict[str, bytes]:
    """The source of a script and of all modules it imports from its folder, by relative path.

    Includes the modules that these import. Imports are found by parsing: a module whose name is
    computed (`importlib.import_module`) is missed. jdl itself is left out: its version is recorded.
    `text` is the script's source where it is not that of its file: collected cells of a notebook.
    """
    if script is None:
        return {}
    script = script.resolve()
    texts, waiting = dict[str, bytes](), [script]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(script.parent).as_posix()
        if name not in texts:
            texts[name] = text if text is not None and path == script else path.read_bytes()
            waiting += _imported_files(path, texts[name], script.parent)
    return dict(sorted(texts.items()))


def _imported_files(path: Path, text: bytes, root: Path) -> Iterator[Path]:
    """The files under `root` that a module imports, with the `__init__.py` of their packages."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:  # such as code for another Python, which is imported conditionally
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module_files(root, alias.name)
        elif isinstance(node, ast.ImportFrom):
            start = path.parents[node.level - 1] if node.level else root
            if start.is_relative_to(root):
                for alias in node.names:  # a module of the package, or any other name in it
                    yield from _module_files(start, f"{node.module or ''}.{alias.name}".strip("."))


def _module_files(start: Path, module: str) -> Iterator[Path]:
    """The files that importing a module by this dotted name from the folder `start` runs."""
    for part in module.split("."):
        if part == "jdl":
            return
        yield from filter(Path.is_file, (start / f"{part}.py", start / part / "__init__.py"))
        start = start / part


def code_hashes(texts: dict[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each file."""
    return {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}


def write_code(folder: Path, texts: dict[str, bytes]) -> str | None:
    """Writes the code of a run into its folder; different code that is there is moved aside.

    Returns the name of the folder that the old code was moved to, or None.
    """
    target, moved_to = folder / FOLDER, None
    if _copied(target) == texts:
        return None
    new = folder / f".{FOLDER}"
    shutil.rmtree(new, ignore_errors=True)  # left by a kill
    for name, text in texts.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(text)
    if target.exists():
        moved_to = target.rename(free_name(target, first=1)).name
    if texts:
        new.rename(target)
    return moved_to


def recorded_code(folder: Path, hashes: dict[str, str]) -> dict[str, bytes]:
    """The code in a run's folder; `Error` where it does not match the record's hashes."""
    texts = _copied(folder / FOLDER)
    present = code_hashes(texts)
    differing = [name for name in {**hashes, **present} if hashes.get(name) != present.get(name)]
    if differing:
        raise Error(
            f"{folder / FOLDER / min(differing)} is not as it was recorded: put the file back, or "
            "restore the checkpoint from Python, by jdl.restore(folder, run)."
        )
    return texts


def computes_otherwise(folder: Path, name: str, code: Mapping[str, bytes]) -> bool:
    """Whether a file differs from the copy in a run's folder in more than comments and layout."""
    path = folder / FOLDER / name
    if name not in code or not path.is_file():
        return True
    return _without_comments(path.read_bytes()) != _without_comments(code[name])


def _without_comments(text: bytes) -> str | bytes:
    """The syntax tree of Python code without comments and docstrings, as a text."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return text
    for node in ast.walk(tree):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _copied(target: Path) -> dict[str, bytes]:
    files = sorted(path for path in target.rglob("*.py") if path.is_file())
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in files}
