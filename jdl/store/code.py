"""The code of an experiment: its script and the modules beside it, kept in the run's folder.

A run is rebuilt from this copy, wherever the script has gone and however it has changed since.
"""

from __future__ import annotations

import ast
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from jdl.store.folder import free_name
from jdl.types import Error

FOLDER = "code"


def read_code(script: Path | None) -> dict[str, bytes]:
    """The script and the modules that it imports from its own folder, by path relative to it.

    Also the modules that these import. Imports are read from the source text: a module whose name
    is computed (`importlib.import_module`) is left out, and so is jdl, whose version is recorded.
    """
    if script is None:
        return {}
    script = script.resolve()
    texts, waiting = dict[str, bytes](), [script]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(script.parent).as_posix()
        if name not in texts:
            texts[name] = path.read_bytes()
            waiting += _imported_files(path, texts[name], script.parent)
    return dict(sorted(texts.items()))


def _imported_files(path: Path, text: bytes, root: Path) -> Iterator[Path]:
    """The files under `root` that a module imports, with the `__init__.py` of their packages."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:  # for another Python: the script takes the import's failure into account
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module_files(root, alias.name)
        elif isinstance(node, ast.ImportFrom):
            start = path.parents[node.level - 1] if node.level else root
            if start.is_relative_to(root):
                for alias in node.names:  # the name of a module in a package, or of something else
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
    """Writes the code of a run into its folder, and moves other code that is there aside.

    Returns the name of the folder that it was moved to, if any was.
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
    """The code in a run's folder; `Error` where it is not what the record's hashes say."""
    texts = _copied(folder / FOLDER)
    present = code_hashes(texts)
    differing = [name for name in {**hashes, **present} if hashes.get(name) != present.get(name)]
    if differing:
        raise Error(
            f"{folder / FOLDER / min(differing)} is not as it was recorded: put the file back, or "
            "restore the checkpoint from Python, by jdl.restore(folder, run)."
        )
    return texts


def _copied(target: Path) -> dict[str, bytes]:
    files = sorted(path for path in target.rglob("*.py") if path.is_file())
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in files}
