"""The folder of a study: what it searches, the names of its trials, and what failed.

    studies/digits_mlp/study.json                        the search
    studies/digits_mlp/digits_mlp/<digest>/seed<k>/      its runs, each an ordinary one
    studies/digits_mlp/trial17 -> digits_mlp/<digest>    their names
    studies/digits_mlp/failures/trial17-seed0.json       why a run failed
    studies/digits_mlp/suggestions/trial17.json          what a sampler that learns has suggested
    studies/digits_mlp/table.json                        its trials as rows, when it last ended

What is done is read from the runs, so nothing else can be lost by a kill.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jdl.config import difference
from jdl.store import log, manifest
from jdl.store.folder import DiskError, read_description, read_json, write_json
from jdl.store.lock import hold_lock
from jdl.store.record import read_record
from jdl.types import Error

FORMAT = 1
IDENTITY = {"config": dict, "search": dict, "code": dict, "options": dict}
OWN = re.compile(r"trial\d+|failures|suggestions|figures|lock|(study|table)\.json")  # its files


def open_study(folder: Path, description: Mapping[str, Any]) -> None:
    """Creates the folder of a study, or opens it again.

    Raises `Error` where it holds another study, or one of other code or data.
    """
    path = folder / "study.json"
    if OWN.fullmatch(name := description["config"]["name"]):
        raise Error(
            f"--name {name} is the name of a study's own file: choose another for its runs."
        )
    if folder.is_file():
        raise Error(f"{folder} is a file: choose another folder by --study.")
    if not path.exists() and any(one.name != "lock" for one in folder.glob("*")):
        raise Error(
            f"{folder} has files, and is no study: its runs may be of other code. Choose a new "
            "folder by --study."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder, "opened"):
            if path.exists():
                _check_same(folder, description)
            write_json(path, {"format": FORMAT, **description})
    except OSError as error:
        raise DiskError(f"The study's folder {folder} cannot be written: {error}.") from error


def _check_same(folder: Path, description: Mapping[str, Any]) -> None:
    """Raises `Error` where a study differs, in more than the number of its trials."""
    old = read_description(
        folder / "study.json", FORMAT, IDENTITY, "a study", "use a newer jdl, or another --study"
    )
    other = "choose another folder by --study"
    if old["code"] != description["code"]:
        files = difference(old["code"], dict(description["code"]))
        raise Error(
            f"The experiment's code has changed since the study {folder} began, so further trials "
            f"could not be compared: {other}. ({files})"
        )
    for part in ("config", "search", "options", "data"):
        now = dict(description[part])
        before = dict(old.get(part, now))  # a study of an earlier jdl does not say its data
        if part == "search" and not now["halving"]:  # more trials may follow, or fewer be shown
            before["trials"] = now["trials"]
        if before != now:
            text = f"{folder} holds another study ({difference(before, now)})"
            if part == "search" and before == now | {"trials": before["trials"]}:
                other = f"with --halving no trials are added to those that were compared: {other}"
            raise Error(f"{text}: {other}.")


def write_table(study: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows of a study that ended."""
    write_json(study / "table.json", rows)


def read_table(study: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a study that ended, and its search; `Error` where the folder has none."""
    path = study / "study.json"
    if not path.is_file():
        raise Error(f"{study} is no study: name its folder, or a script with a --grid.")
    description = read_description(path, FORMAT, IDENTITY, "a study", "use a newer jdl")
    if not (study / "table.json").is_file():
        raise Error(
            f"The study {study} has not ended: the command that began it goes on, and jdl runs "
            f"--root {study} shows what there is."
        )
    table = read_json(study / "table.json")  # the study may have moved since
    rows = [{**row, "folder": str(study / f"trial{row['trial']}")} for row in table]
    return rows, description["search"]


def link(study: Path, number: int, config_folder: Path) -> None:
    """Names the runs of a trial, STUDY/trial17, by a relative link."""
    with suppress(FileExistsError):
        (study / f"trial{number}").symlink_to(os.path.relpath(config_folder, study))


def failure_path(study: Path, number: int, seed: int) -> Path:
    """The file that says why a run failed: without it, the run is trained again."""
    return study / "failures" / f"trial{number}-seed{seed}.json"


def write_failure(study: Path, number: int, seed: int, error: Exception) -> None:
    """Records why a run failed."""
    path = failure_path(study, number, seed)
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"error": f"{type(error).__name__}: {error}"})


def read_failure(study: Path, number: int, seed: int) -> str | None:
    """Why a run failed; None if it has not."""
    path = failure_path(study, number, seed)
    return read_json(path)["error"] if path.exists() else None


def first_validation_data(study: Path, seed: int) -> tuple[int, str | None] | None:
    """The first trial that has begun with a seed, and the fingerprint of its validation data."""
    runs = {
        int(path.parts[-3].removeprefix("trial")): path.parent
        for path in study.glob(f"trial*/seed{seed}/run.json")
    }
    return (first := min(runs), read_record(runs[first])["data"].get("valid")) if runs else None


def is_trained(run: Path, steps: int | None) -> bool:
    """Whether a run is finished, or saved and evaluated at a step before its last."""
    if (run / "summary.json").exists():
        return True
    saved = [int(path.name) for path in run.glob("checkpoints/*") if path.name.isdigit()]
    complete = [step for step in saved if manifest.is_complete(run / "checkpoints" / str(step))]
    return steps is not None and steps <= max(complete, default=0)


def score(run: Path, split: str, metric: str, steps: int | None = None) -> float | None:
    """The metric of a run on a split, at the end or after these steps; None if it is not finite."""
    lines = [line for line in log.read(run) if line["split"] == split]
    lines = [line for line in lines if steps is None or line["step"] <= steps]
    return lines[-1].get(metric) if lines else None
