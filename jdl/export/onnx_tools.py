"""What exporting to ONNX needs beside jdl: a folder of packages that is made on first use."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from jdl.data.cache import cache_dir
from jdl.types import Error

# All that jax2onnx imports and jdl has not. Its own requirements ask for an older Orbax than jdl's,
# which it uses for nothing here, and for packages of other kinds of models: they are left out.
PACKAGES = (
    "jax2onnx==0.17.1",
    "mpmath==1.4.1",
    "onnx==1.23.2",
    "onnx-ir==1.1.0",
    "onnxruntime==1.32.0",
    "sympy==1.14.0",
)
SIZE = "55 MB to download, 210 MB on disk"


def onnx_tools(name: str) -> ModuleType:
    """The module "jax2onnx" or "onnxruntime": one that is installed, else that of jdl's folder.

    The folder is in jdl's cache; it is filled by pip on first use, which is said on stderr. Raises
    `Error`, with the command to run by hand, where that fails (without a network, say).
    """
    if find_spec(name) is None:
        folder = tools_folder()
        if not folder.is_dir():
            _install(folder)
        sys.path.append(str(folder))  # last: JAX, NumPy and all else stay those of the process
        importlib.invalidate_caches()
    return importlib.import_module(name)


def tools_folder() -> Path:
    """The folder of the packages; another Python, or other packages, have another."""
    digest = hashlib.sha256("\n".join(PACKAGES).encode()).hexdigest()[:8]
    major, minor = sys.version_info[:2]
    return cache_dir() / f"onnx-python{major}.{minor}-{digest}"


def _install(folder: Path) -> None:
    print(  # noqa: T201
        f"Installing what ONNX needs into {folder}, once: {SIZE}, half a minute.",
        file=sys.stderr,
        flush=True,
    )
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent))
        done = subprocess.run(_command(temporary), capture_output=True, text=True)
        if done.returncode == 0:
            temporary.chmod(0o755)
            temporary.rename(folder)
        failure = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
    except OSError as error:
        failure = str(error)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    if not folder.is_dir():  # another process may have made it meanwhile
        raise Error(
            f"What ONNX needs could not be installed ({failure}). Where there is a network, run: "
            f"{' '.join(_command(folder))}"
        )


def _command(folder: Path) -> list[str]:
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    return [*pip, "--no-deps", "--target", str(folder), *PACKAGES]
