"""The sections of a report, from the runs' folders: in words first, and then all that is known."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from jdl.config import flat_config
from jdl.report.costs import costs
from jdl.report.document import Document, Section, Table, counted
from jdl.report.groups import Group, RunFacts, differing_fields
from jdl.report.pictures import pictures
from jdl.report.rebuilt import Rebuilt, data_card
from jdl.report.results import results, score, splits_of

COMMANDS = 20  # configs whose commands are listed
SHORT = 12  # characters of a hash in a table


def document(
    groups: Sequence[Group],
    rebuilt: Mapping[str, Rebuilt],
    watts: float | None = None,
    left_out: Sequence[str] = (),
) -> Document:
    """The report of these groups of runs; `rebuilt` has what their folders do not hold.

    `left_out` says of other runs why they cannot be read.
    """
    names = list(dict.fromkeys(group.first.entry.name for group in groups))
    title = ", ".join(names[:4]) + (f" and {len(names) - 4:,} more" if len(names) > 4 else "")
    found, verdicts = results(groups)
    cost = costs(groups, rebuilt, watts)
    summary = [*_summary(groups), *(f"A run is left out: {reason}" for reason in left_out)]
    sections = [
        Section("Summary", [*summary, *verdicts[:1], *cost.sentences[:1]]),
        found,
        Section("Curves", _curves_words(groups), has_curves=True),
        pictures(groups),
        configs(groups),
        data_card(groups, rebuilt),
        environment(groups),
        cost,
        _repeat(groups),
    ]
    return Document(title, sections)


def _summary(groups: Sequence[Group]) -> list[str]:
    """How many runs there are, what the best of them reached, and which are not finished."""
    runs = [run for group in groups for run in group.runs]
    sentences = [f"{counted(len(runs), 'run')} of {counted(len(groups), 'config')}."]
    for status in ("running", "stopped", "failed"):
        found = [run for run in runs if run.status == status]
        if found:
            shown = ", ".join(f"{_name(run)} (step {run.step:,})" for run in found[:5])
            more = f" and {len(found) - 5:,} more" if len(found) > 5 else ""
            why = " (its last numbers are not finite)" if status == "failed" else ""
            sentences.append(f"Not finished, but {status}{why}: {shown}{more}.")
    sentences += [text for group in groups for text in _other_code(group)]
    splits = splits_of(groups)
    names = dict.fromkeys(group.first.entry.name for group in groups)
    found = [[one for one in groups if one.first.entry.name == name] for name in names]
    return [*sentences, *(text for one in found for text in _best(one, splits[:1]))]


def _other_code(group: Group) -> list[str]:
    """Which runs of a config had other code than its first one: they are in one mean all the same.

    A config has the same digest where the code around it has changed.
    """
    code = group.first.record["code"]
    others = [run for run in group.runs if run.record["code"] != code]
    if not others:
        return []
    seeds = ", ".join(str(run.seed) for run in others)
    return [
        f"Not all runs of {group.name} had the same code: {counted(len(others), 'run')} (seeds "
        f"{seeds}) had other code than {_name(group.first)}, and results are over all of them."
    ]


def _best(groups: Sequence[Group], splits: Sequence[str]) -> list[str]:
    """What the best config of an experiment reached, of those with the same data and metric."""
    found = []
    alike = {(str(g.first.record["data"]), g.first.record["best"]) for g in groups}
    if len(alike) > 1:
        return []
    for split in splits:
        metric = groups[0].first.entry.metric
        scored = [(group, score(group, split, metric)) for group in groups]
        scored = [(group, one) for group, one in scored if len(one.values)]
        if scored:
            low = groups[0].first.record["best"].startswith("min")
            group, best = (min if low else max)(scored, key=lambda pair: pair[1].values.mean())
            over = f", the mean of {len(best.values)} seeds" if len(best.values) > 1 else ""
            among = f"; the best of {counted(len(scored), 'config')}" if len(scored) > 1 else ""
            found.append(f"{group.name} reaches a {split} {metric} of {best}{over}{among}.")
    return found


def _curves_words(groups: Sequence[Group]) -> list[str]:
    if not any(run.lines for group in groups for run in group.runs):
        return ["Nothing has been logged yet."]
    seeds = any(len(group.runs) > 1 for group in groups)
    thin = (
        "; thin lines are runs, the thick one is the mean of those that are finished"
        if seeds
        else ""
    )
    words = [f"Training on the left, evaluation on the right, at the same scale{thin}."]
    if all(
        line["split"] != "train" for group in groups for run in group.runs for line in run.lines
    ):
        words.append(
            "No training metrics were logged, so the left is empty: --log-every logs them."
        )
    return words


def configs(groups: Sequence[Group]) -> Section:
    """The section of the configs: the fields that differ, and those that all have."""
    flat = [group.first.config for group in groups]
    differ, tables = differing_fields(flat), []
    same = [field for field in flat[0] if field not in (*differ, "seed")]
    if len(groups) > 1:
        rows = []
        for group, config in zip(groups, flat, strict=True):
            seeds = ", ".join(str(run.seed) for run in group.runs)
            values = (_text(config[field]) if field in config else "–" for field in differ)
            rows.append([group.name, group.first.record["digest"], seeds, *values])
        head = ["config", "digest", "seeds", *differ]
        tables.append(Table(head, rows, "Fields in which the configs differ"))
    rows = [[field, _text(flat[0][field])] for field in same]
    title = "Fields of all configs" if len(groups) > 1 else "Config"
    tables.append(Table(["field", "value"], rows, title))
    if len(groups) == 1:
        rows.insert(0, ["seed", ", ".join(str(run.seed) for run in groups[0].runs)])
        rows.insert(0, ["digest", groups[0].first.record["digest"]])
    return Section("Configuration", tables=tables)


def environment(groups: Sequence[Group]) -> Section:
    """The section of the environment: versions, devices, flags; and where runs differ in them."""
    runs = [run for group in groups for run in group.runs]
    found = [
        {**flat_config(run.record["environment"]), **flat_config(run.record["options"], "option.")}
        for run in runs
    ]
    fields = dict.fromkeys(field for one in found for field in one)
    rows, differ = [], []
    for field in fields:
        values = list(dict.fromkeys(_text(one.get(field, "not set")) for one in found))
        rows.append([field, " | ".join(values)])
        differ += [field] if len(values) > 1 else []
    sentences = _environment_words(found) if rows else ["The runs have no recorded environment."]
    if differ:
        sentences.append(f"The runs differ in {', '.join(differ)}.")
    segments = [run for run in runs if run.record.get("segments")]
    sentences += [f"{_name(run)} was resumed with changes: see its run.json." for run in segments]
    return Section("Environment", sentences, folded=[Table(["name", "value"], rows, "Environment")])


def _environment_words(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the runs were trained, in a sentence for each kind of place."""
    sentences = {}
    for one in found:
        versions = ", ".join(
            f"{name} {one[f'versions.{name}']}"
            for name in ("python", "jdl", "jax", "jaxlib", "flax", "optax")
            if f"versions.{name}" in one
        )
        place = f"{one.get('devices.count', '?')} {one.get('devices.kind', 'device')}"
        cores = f", {one['host.cores']} cores" if "host.cores" in one else ""
        flags = one.get("variables.XLA_FLAGS")
        sentences[f"{versions}; {place}{cores}; XLA_FLAGS {flags or 'not set'}."] = None
    return list(sentences)


def _repeat(groups: Sequence[Group]) -> Section:
    """The section of what identifies the runs, and of the commands that make them again."""
    runs = [run for group in groups for run in group.runs]
    rows = []
    for run in runs:
        code = ", ".join(f"{n} {str(h)[:SHORT]}" for n, h in run.record["code"].items()) or "–"
        git = str(run.record.get("git") or "–")
        rows.append([_name(run), _command(run) or "–", git, code, _trace_digest(run)])
    firsts = [group.first for group in groups[:COMMANDS]]
    trained = dict.fromkeys(command for run in firsts if (command := _command(run)))
    repeats = [f"jdl repeat {shlex.quote(str(run.folder))}" for run in firsts]
    sentences = [
        "The first run of each config was trained by the first commands; jdl repeat trains a run "
        "again from its record, and compares every step to the bit. The commands of all runs, and "
        "the digests by which equal runs are known, are in the table."
    ]
    head = ["run", "command", "git commit", "code (SHA-256)", "step trace (SHA-256)"]
    table = Table(head, rows, "Commands and digests of all runs")
    return Section("Repeat", sentences, commands=[*trained, *repeats], folded=[table])


def _command(run: RunFacts) -> str:
    return shlex.join(map(str, run.record.get("command") or []))


def _trace_digest(run: RunFacts) -> str:
    path = run.folder / "trace.f32"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "–"


def _name(run: RunFacts) -> str:
    return f"{run.entry.name}/{run.record['digest']}/seed{run.seed}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else repr(value)
