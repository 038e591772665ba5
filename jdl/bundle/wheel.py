"""jdl itself as a wheel, made of the files that are installed: no build backend, no network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
WHEEL = """Wheel-Version: 1.0
Generator: jdl bundle
Root-Is-Purelib: true
Tag: py3-none-any
"""


def write_wheel(folder: Path) -> Path:
    """Writes a wheel of the installed jdl into a folder; equal files make an equal wheel."""
    found = distribution("jdl")
    name = f"jdl-{found.version}"
    info = f"{name}.dist-info"
    contents = installed_files() | {f"{info}/WHEEL": WHEEL.encode()}
    for file in ("METADATA", "entry_points.txt"):
        contents[f"{info}/{file}"] = (found.read_text(file) or "").encode()
    lines = [f"{file},sha256={_hash(text)},{len(text)}\n" for file, text in contents.items()]
    contents[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    path = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file, text in contents.items():
            wheel.writestr(zipfile.ZipInfo(file), text, zipfile.ZIP_DEFLATED)  # without the time
    return path


def installed_files() -> dict[str, bytes]:
    """The files of the jdl that runs here, by path."""
    paths = (path for path in sorted(PACKAGE.rglob("*")) if path.is_file())
    return {
        path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes()
        for path in paths
        if path.parent.name != "__pycache__"
    }


def changed_files(wheel: Path) -> list[str]:
    """The files in which the jdl that runs here differs from that of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        there = {name: archive.read(name) for name in names}
    here = installed_files()
    return sorted(name for name in {**there, **here} if there.get(name) != here.get(name))


def _hash(text: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode()
