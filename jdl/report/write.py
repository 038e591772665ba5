"""Writes a report: HTML, Markdown or LaTeX, by the file's ending."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jdl.report.costs import check_watts
from jdl.report.curves import curves_json
from jdl.report.document import MARK, Document
from jdl.report.groups import Group, read_groups
from jdl.report.html import html
from jdl.report.rebuilt import Rebuilt, rebuild_run
from jdl.report.sections import document
from jdl.report.tables import latex, markdown
from jdl.store.folder import write_atomically
from jdl.types import Error

SUFFIXES = (".html", ".md", ".tex")


def report(
    names: Sequence[str] = (),
    to: Path | str = "report.html",
    root: Path | str = "runs",
    rebuild: bool = True,
    watts: float | None = None,
) -> Path:
    """Writes a report of runs to a file, and returns its path.

    `names` are as in `jdl runs`, or folders; without any all runs under `root` are reported. The
    file's ending chooses the form: .html is one page without anything from elsewhere, .md has the
    same in Markdown without curves and figures, .tex the tables of results for LaTeX (booktabs).
    `rebuild` builds the first run of each config again from its code, for the rows and columns of
    its data and the operations of a step. `watts` is the power of one device, for the energy. Equal
    runs give equal files. Raises `Error` where there is no such run, or the file cannot be written.
    """
    path = Path(to)
    if path.suffix not in SUFFIXES:
        raise Error(f"A report is {', '.join(SUFFIXES)}, not {path.name!r}: choose such a name.")
    if not path.parent.is_dir():
        raise Error(f"There is no folder {path.parent}: create it first.")
    check_watts(watts)
    if path.exists() and MARK not in path.read_text(errors="replace"):
        raise Error(f"{path} is there already, and is no report: choose another name.")
    groups, left_out = read_groups(names, Path(root))
    found = document(groups, rebuilt_runs(groups, rebuild), watts, left_out)
    text = _text(found, groups, path.suffix)
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise Error(f"{path} cannot be written: {error}.") from error
    return path


def rebuilt_runs(groups: Sequence[Group], rebuild: bool) -> dict[str, Rebuilt]:
    """The first run of each group, built again; nothing without `rebuild`."""
    return {group.name: rebuild_run(group.first) for group in groups} if rebuild else {}


def _text(found: Document, groups: Sequence[Group], suffix: str) -> str:
    if suffix == ".md":
        return markdown(found)
    if suffix == ".tex":
        return latex(found)
    return html(found, curves_json(groups))
