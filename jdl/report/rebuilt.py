"""What a run's folder does not hold, from its code and config: rows, columns, operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jdl.inspect.cost import step_operations
from jdl.report.document import Section, Table
from jdl.report.groups import Group, RunFacts
from jdl.train.epochs import has_epochs
from jdl.train.experiment import rebuild
from jdl.train.placement import splits
from jdl.types import Error, Loader

SHORT = 12  # characters of a fingerprint


@dataclass(frozen=True)
class SplitCard:
    """A split of the data: its rows, those of a batch, its columns, and its fingerprint now."""

    rows: str
    batch: int
    columns: str  # name, type and shape of a row
    fingerprint: str


@dataclass(frozen=True)
class Rebuilt:
    """A run that was built again from its folder; or why it was not."""

    cards: Mapping[str, SplitCard]  # by split
    operations: int | None  # FLOPs of a step
    problems: Sequence[str] = ()


def rebuild_run(run: RunFacts) -> Rebuilt:
    """Builds a run again, and asks its data and its step; what fails is said, and no error."""
    cards, count, problems = {}, None, []
    try:
        built = rebuild(run.folder)
        cards = {name: _card(loader) for name, loader in splits(built).items()}
        count = step_operations(built)
    except (Exception, SystemExit) as error:  # of the user's code, whatever it raises
        reason = str(error) if isinstance(error, Error) else f"{type(error).__name__}: {error}"
        problems.append(f"{run.entry.name} cannot be built again here: {reason}")
    return Rebuilt(cards, count, problems)


def _card(loader: Loader) -> SplitCard:
    columns: dict[str, Any] = {k: c for k, c in loader.spec.items() if k not in ("mask", "id")}
    names = ", ".join(
        f"{name} {column.dtype} {'×'.join(map(str, column.shape[1:])) or 'number'}"
        for name, column in columns.items()
    )
    if not has_epochs(loader):
        return SplitCard("from an environment", loader.batch_size, "", loader.fingerprint)
    return SplitCard(f"{loader.num_examples:,}", loader.batch_size, names, loader.fingerprint)


def data_card(groups: Sequence[Group], rebuilt: Mapping[str, Rebuilt]) -> Section:
    """The section of the data: rows, columns and fingerprint of each split."""
    sentences, rows = [], {}
    changed = set()
    for group in groups:
        cards = rebuilt[group.name].cards if group.name in rebuilt else {}
        for split, fingerprint in group.first.record["data"].items():
            card = cards.get(split)
            if card and card.fingerprint != fingerprint:
                changed.add(split)
            facts = (card.rows, f"{card.batch:,}", card.columns) if card else ("–", "–", "–")
            rows[group.first.entry.name, split, *facts, str(fingerprint)[:SHORT]] = None
        for run in group.runs[1:]:
            if run.record["data"] != group.first.record["data"]:
                sentences.append(f"{group.name}, seed {run.seed}, was trained on other data.")
    if changed:
        sentences.append(
            f"The data of {', '.join(sorted(changed))} on this machine are not those that the runs "
            "were trained on: rows and columns are of the data here, fingerprints of the runs."
        )
    found = {split for group in groups for split in group.first.record["data"]}
    lacking = [name for name in ("valid", "test") if name not in found]
    words = {"valid": "validation", "test": "test"}
    sentences += [f"There is no {words[name]} split." for name in lacking]
    sentences += dict.fromkeys(p for one in rebuilt.values() for p in one.problems)
    if not rebuilt:
        sentences.append("Rows and columns are left out (--no-rebuild).")
    head = ["experiment", "split", "rows", "batch", "columns", "fingerprint (SHA-256)"]
    return Section("Data", sentences, [Table(head, list(rows), "Splits of the data")])
