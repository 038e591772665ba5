"""The repetition of a bundled run: checks first, then a training that is compared to the bit."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from jdl.bundle.data import FETCHED, FILES, PREPARED
from jdl.bundle.folder import CARD, NAME, RUN, check_data, minor_versions, read_bundle
from jdl.bundle.wheel import changed_files
from jdl.config import difference
from jdl.data.fetch import PACKAGES, fetch
from jdl.inspect import compare
from jdl.store.environment import SETTINGS, fingerprint, numerics_environment
from jdl.store.record import read_record
from jdl.train.experiment import rebuild
from jdl.types import Error

VARIABLE = "TFDS_DATA_DIR"  # the folder of prepared datasets
NAMES = ("in the bundle", "here")


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle, and not a run's."""
    return (folder / NAME).is_file()


def repeat(folder: Path | str, anyway: bool = False, quiet: bool = False) -> compare.Comparison:
    """Trains a bundled run again, here, and compares every step and state to the bit.

    First it checks the hash of each file, then versions, flags and the kind of machine, and after
    the run is built its settings and data: `Error` names what differs, before anything is trained;
    `anyway` trains all the same. It runs the bundle's code: repeat only what you trust. Data that
    are in the bundle are used from there, or put into jdl's cache.
    """
    folder = Path(folder).resolve()
    about = read_bundle(folder)
    record = read_record(folder / RUN)
    if not anyway:
        changed = _changes(record, SETTINGS)
        if files := changed_files(folder / about["wheel"]):
            more = f" and {len(files) - 1} more files" if files[1:] else ""
            changed = "; ".join(filter(None, [changed, f"jdl itself: {files[0]}{more}"]))
        _refuse(changed)
    files = folder / FILES
    with _placed_data(folder), chdir(files if files.is_dir() else folder):
        run = rebuild(folder / RUN)
        if not anyway:
            _refuse(_changes(record))
            check_data(record, run, NAMES)
        return compare.repeat(folder / RUN, quiet)


def _changes(record: dict[str, Any], without: Collection[str] = ()) -> str:
    """How the environment differs in what bits depend on; empty where it does not."""
    there, here = (
        minor_versions({n: v for n, v in numerics_environment(found).items() if n not in without})
        for found in (record, {**record, "environment": fingerprint()})
    )
    return difference(there, here, NAMES)


def _refuse(changed: str) -> None:
    if changed:
        raise Error(
            f"The numbers would not be equal to the bit, because this differs: {changed}. The "
            f"bundle's {CARD} says how to get the same versions and flags; --anyway trains all the "
            "same, and says in which step the numbers differ."
        )


@contextmanager
def _placed_data(folder: Path) -> Iterator[None]:
    """Makes the data of a bundle those that its run will find."""
    for name in PACKAGES:
        if (folder / FETCHED / name).is_dir():
            fetch(name, folder / FETCHED / name)
    before = os.environ.get(VARIABLE)
    if (folder / PREPARED).is_dir():
        os.environ[VARIABLE] = str(folder / PREPARED)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before
