"""The cache on disk: folders of numpy arrays with checksums, which can be computed again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np


def cache_dir() -> Path:
    """The folder of jdl's cache: $JDL_CACHE, else ~/.cache/jdl."""
    return Path(os.environ.get("JDL_CACHE") or "~/.cache/jdl").expanduser()


def read_cache(folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays in a folder of the cache; None where they are missing or damaged."""
    try:
        expected = json.loads((folder / "sums.json").read_text())
        columns = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in expected}
    except (OSError, ValueError):
        return None
    return columns if _checksums(columns) == expected else None


def write_cache(folder: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes arrays into a folder of the cache, atomically (into a new folder, then renamed).

    On a full or read-only disk nothing is cached: the arrays are computed again next time.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            for name, column in columns.items():
                np.save(new / f"{name}.npy", column)
            (new / "sums.json").write_text(json.dumps(_checksums(columns)))
            if folder.exists():
                folder.rename(Path(temporary) / "old")
            new.rename(folder)
    except OSError:
        return


def _checksums(columns: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: hashlib.sha256(column.data).hexdigest() for name, column in columns.items()}
