"""Import of an experiment's modules from the copy of its code in the run's folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path, PurePosixPath
from types import ModuleType


@contextmanager
def recorded_modules(texts: Mapping[str, bytes], origin: Path) -> Iterator[None]:
    """Within the block, these modules are imported from their recorded source only.

    `texts` maps paths, relative to the script's folder `origin`, to source code. The modules'
    `__file__` still points to `origin`, so that data files beside them are found. Modules of the
    same names that were imported before are restored afterwards. After the block the recorded
    source is used only for imports that would fail otherwise: those within functions of the
    experiment that are called later.
    """
    finder = _RecordedFinder(texts, origin)
    before = {name: module for name, module in sys.modules.items() if finder.has(name)}
    _forget(before)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        _forget([name for name in sys.modules if finder.has(name)])
        sys.modules.update(before)
        sys.meta_path.remove(finder)
        sys.meta_path.append(finder)


def _forget(names: Mapping[str, ModuleType] | Sequence[str]) -> None:
    for name in names:
        del sys.modules[name]


class _RecordedFinder(MetaPathFinder):
    """An import finder (`sys.meta_path`) for recorded modules."""

    def __init__(self, texts: Mapping[str, bytes], origin: Path) -> None:
        self.texts, self.origin = texts, origin
        self.paths = {_module_name(path): path for path in texts}
        folders = {str(folder) for path in texts for folder in PurePosixPath(path).parents}
        self.folders = {folder.replace("/", "."): folder for folder in folders - {"."}}

    def has(self, name: str) -> bool:
        """Whether a module or a package has this name."""
        return name in self.paths or name in self.folders

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The import spec of a recorded module; None for any other."""
        search = [str(self.origin / self.folders[name])] if name in self.folders else None
        if name in self.paths:
            file = self.origin / self.paths[name]
            loader = _RecordedLoader(file, self.texts[self.paths[name]])
            return spec_from_file_location(
                name, file, loader=loader, submodule_search_locations=search
            )
        if search:  # a folder without __init__.py
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = search
            return spec
        return None


class _RecordedLoader(SourceLoader):
    """An import loader of one module, from its recorded source."""

    def __init__(self, file: Path, text: bytes) -> None:
        self.file, self.text = file, text

    def get_filename(self, fullname: str) -> str:
        """The module's original path."""
        return str(self.file)

    def get_data(self, path: object) -> bytes:
        """The recorded source."""
        return self.text


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
