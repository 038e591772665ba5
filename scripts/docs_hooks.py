"""Hooks of mkdocs: pages made from the code, and the check that public names have docstrings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROOMS = {  # in the order of the site; others come after them
    "data": "Data",
    "models": "Models",
    "layers": "Layers",
    "objectives": "Objectives (losses)",
    "learners": "Learners (training algorithms)",
    "optim": "Optimizers",
    "metrics": "Metrics",
    "sampling": "Sampling of text",
    "environments": "Environments",
    "parallel": "Parallel training",
    "types": "Types and interfaces",
    "config": "Config and options",
    "train": "Training loop",
    "store": "The run's folder",
    "inspect": "Inspecting runs",
    "study": "Hyperparameter search",
    "plan": "Plans for accelerators",
    "explain": "Looking inside a model",
    "figures": "Figures",
    "cli": "Command line",
}
TOPICS = {  # words in the names of experiments: the first topic that fits; shown from last to first
    "Reinforcement learning": r"cartpole|pendulum|catch|maze",
    "Graphs": r"gcn|gat",
    "Generative models and clusters": r"autoencoder|clusters|vae|gan|diffusion|flow|anomaly",
    "Sequences, text and speech": r"lstm|adding|stdlib|pronounce|translate|spoken|lines",
    "Classification, detection and segmentation": r"",
}

_command = "build"


def on_startup(command: str, dirty: bool) -> None:
    """Remembers whether the site is built or only served."""
    global _command
    _command = command


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Refuses undocumented names, and adds the API's pages to the navigation."""
    package = load_package()
    if _command == "build" and (names := list(undocumented(package))):
        raise PluginError("These public names have no docstring:\n  " + "\n  ".join(names))
    assert config.nav is not None
    reference = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    reference += [{"Experiments": "experiments.md"}]
    reference += [{title: f"api/{room}.md"} for room, title in rooms(package).items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code."""
    package = load_package()
    for room, title in rooms(package).items():
        text = api_page(package[room], title)
        files.append(File.generated(config, f"api/{room}.md", content=text))
    files.append(File.generated(config, "experiments.md", content=experiments_page()))
    return files


def load_package(name: str = "jdl", path: Path = ROOT) -> griffe.Module:
    """The package as its source has it; nothing is imported."""
    package = griffe.load(name, search_paths=[path], allow_inspection=False)
    assert isinstance(package, griffe.Module)
    return package


def rooms(package: griffe.Module) -> dict[str, str]:
    """The rooms of the package by name, with their titles."""
    found = [name for name, member in package.modules.items() if is_public(member)]
    known = {name: title for name, title in ROOMS.items() if name in found}
    return known | {name: name.capitalize() for name in sorted(found) if name not in known}


def modules(module: griffe.Module) -> Iterator[griffe.Module]:
    """A module and all public modules below it."""
    yield module
    for member in module.modules.values():
        if is_public(member):
            yield from modules(member)


def is_public(member: griffe.Object | griffe.Alias) -> bool:
    """Whether a name is defined here, and for users."""
    return not member.is_alias and not member.name.startswith("_")


def api_page(room: griffe.Module, title: str) -> str:
    """The page of a room: a section for each of its modules that defines anything."""
    lines = [f"# {title}", ""]
    if room.docstring and any(is_public(member) for member in room.modules.values()):
        lines += [room.docstring.value, ""]
    for module in modules(room):
        if any(is_public(member) and not member.is_module for member in module.members.values()):
            lines += [f"::: {module.path}", ""]
            if module is room:
                lines += ["    options:", "      show_submodules: false", ""]
    return "\n".join(lines)


def undocumented(module: griffe.Module) -> Iterator[str]:
    """Names without a docstring: public modules, classes, functions, methods, exported constants.

    A method may leave its docstring to the base class that declares it.
    """
    if not module.docstring:
        yield module.path
    for member in module.members.values():
        if member.is_alias:
            yield from _undocumented_constant(member, module)
        elif is_public(member):
            if isinstance(member, griffe.Module):
                yield from undocumented(member)
            elif isinstance(member, (griffe.Class, griffe.Function)) and not member.docstring:
                yield member.path
            if isinstance(member, griffe.Class):
                yield from _undocumented_methods(member)


def _undocumented_methods(cls: griffe.Class) -> Iterator[str]:
    for member in cls.members.values():
        is_method = isinstance(member, griffe.Function) or "property" in member.labels
        if is_public(member) and is_method and not member.docstring:
            bases = (base.members.get(member.name) for base in cls.mro())
            if not any(base is not None and base.docstring for base in bases):
                yield member.path


def _undocumented_constant(alias: griffe.Alias, module: griffe.Module) -> Iterator[str]:
    own = alias.target_path.startswith(module.path.split(".")[0] + ".")
    if module.is_init_module and own and not alias.name.startswith("_"):
        try:
            target = alias.final_target
        except griffe.AliasResolutionError:
            yield f"{alias.path} (there is no {alias.target_path})"
            return
        if isinstance(target, griffe.Attribute) and not target.docstring:
            yield target.path


def experiments_page() -> str:
    """All experiments, by what they are about: what each reaches, how to run it, and the script."""
    scripts = {path.stem: path for path in sorted((ROOT / "experiments").glob("*.py"))}
    lines = [
        "# Experiments",
        "",
        "Each experiment is one script: what it reaches, what it costs, and how to run it.",
        "",
    ]
    topics: dict[str, list[str]] = {topic: [] for topic in reversed(TOPICS)}
    for name in scripts:
        topics[next(t for t, words in TOPICS.items() if re.search(words, name))].append(name)
    for topic, names in topics.items():
        if names:
            lines += [f"## {topic}", ""]
        for name in names:
            lines += _experiment(name, scripts[name])
    return "\n".join(lines)


def _experiment(name: str, path: Path) -> list[str]:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    summary, _, rest = docstring.partition("\n")
    shell = re.compile(r"(scripts/|jdl )")
    commands = [line for line in rest.splitlines() if shell.match(line)]
    text = "\n".join(line for line in rest.splitlines() if not shell.match(line)).strip()
    lines = [f"### {name}", "", summary, "", text, "", "```console", *commands, "```", ""]
    lines += [f'??? example "experiments/{path.name}"', "", "    ```python"]
    return [*lines, f'    --8<-- "experiments/{path.name}"', "    ```", ""]
