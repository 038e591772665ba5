"""A lock of versions: the packages that a run needs, exactly as installed, for `pip install -r`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    distributions,
    packages_distributions,
)
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jdl.bundle.wheel import PACKAGE
from jdl.store.manifest import hash_file
from jdl.types import Error

ACCELERATOR = re.compile(r"jax|nvidia-|libtpu")  # what begins so are plugins, and their libraries


def locked_versions(modules: Collection[str]) -> dict[str, str]:
    """The installed versions of jdl's own requirements and of these modules, and of all they need.

    Optional requirements are followed where a package asks for them. Raises `Error` where a package
    was installed from a folder or an address, and not by its name from a registry.
    """
    providers = packages_distributions()
    names = {name for module in modules for name in providers.get(module, ())}
    names |= {found.name for found in distributions() if ACCELERATOR.match(found.name)}
    waiting = [Requirement(name) for name in sorted({"jdl", *names})]
    seen: set[tuple[str, frozenset[str]]] = set()
    versions: dict[str, str] = {}
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found = distribution(name)
        except PackageNotFoundError:  # an extra that is not installed
            continue
        versions[name] = found.version
        waiting += _needed(found, extras)
    del versions["jdl"]  # a wheel of its own
    if own := [name for name in versions if distribution(name).read_text("direct_url.json")]:
        raise Error(
            f"{', '.join(sorted(own))} was installed from a folder or an address, which pip cannot "
            "find elsewhere: put its modules beside the script, or install it by its name."
        )
    return dict(sorted(versions.items()))


def _needed(found: Distribution, extras: Collection[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, found.requires or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def requirements(versions: dict[str, str], wheel: Path) -> str:
    """The text of a requirements file: these versions, and jdl from a wheel in the same folder.

    With the SHA-256 of every package's files where jdl's own lock has them all, as in a checkout of
    its repository: pip checks hashes for all packages or for none.
    """
    known = _known_hashes()
    pinned = {f"{name}=={version}": () for name, version in versions.items()}
    hashes = {pin: known.get(pin, ()) for pin in pinned}
    hashes[f"./{wheel.name}"] = (f"sha256:{hash_file(wheel)}",)
    if not all(hashes.values()):
        hashes = dict.fromkeys(hashes, ())
    return "".join(
        " \\\n    ".join([pin, *(f"--hash={value}" for value in values)]) + "\n"
        for pin, values in hashes.items()
    )


def _known_hashes() -> dict[str, tuple[str, ...]]:
    """The hashes of the files of each version in the lock of a checkout of jdl; empty elsewhere."""
    path = PACKAGE.parent / "requirements.txt"
    if not path.is_file():
        return {}
    entries = path.read_text("utf-8").replace("\\\n", " ").splitlines()
    return {
        words[0]: tuple(re.findall(r"--hash=(\S+)", entry))
        for entry in entries
        if (words := entry.split())
    }
