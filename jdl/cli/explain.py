"""`jdl explain`: what a trained model's predictions rest on, where it errs, what it has learned."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from jdl.cli.arguments import Best, Root, RunName
from jdl.errors import Error

ROWS = 6  # that are shown by default


def explain(
    run: RunName,
    rows: Annotated[
        str,
        tyro.conf.arg(
            metavar="N,N,...",
            help="Rows of the evaluation data that are shown one by one, from 0; by default six "
            "that are drawn with a fixed seed.",
        ),
    ] = "",
    to: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help="Where to draw: by default RUN/figures/explain."),
    ] = None,
    only: Annotated[
        str, tyro.conf.arg(metavar="FIGURE,...", help="Names of figures; by default all.")
    ] = "",
    by: Annotated[
        str,
        tyro.conf.arg(
            metavar="COLUMN", help="Compare groups of rows by this column; by default the classes."
        ),
    ] = "",
    other: Annotated[
        str,
        tyro.conf.arg(
            metavar="RUN", help="Draw the loss on the line to this run, not to the first step."
        ),
    ] = "",
    root: Root = Path("runs"),
    best: Best = False,
) -> None:
    """Look inside a trained model: attributions, errors, features, as pictures with an index."""
    numbers = [word.strip() for word in rows.split(",")] if rows else []
    if not all(word.isdecimal() for word in numbers):
        raise Error(f"--rows takes numbers from 0 on, such as 0,5,17, not {rows!r}.")
    from jdl.cli.startup import set_up_jax
    from jdl.explain.report import INDEX
    from jdl.explain.report import explain as explain_run
    from jdl.explain.subject import Subject
    from jdl.inspect.restore import restore
    from jdl.store.catalog import find

    set_up_jax()
    folder = find(run, root)
    second = restore(find(other, root), best=best) if other else None
    subject = Subject(restore(folder, best=best), tuple(map(int, numbers)), by, second)
    if not numbers:
        subject = replace(subject, rows=tuple(subject.sample(ROWS)))
    to = folder / "figures" / "explain" if to is None else to
    findings = explain_run(subject, to, [name.strip() for name in only.split(",") if name])
    for finding in findings:
        print(finding.path or f"{finding.figure.name} does not apply: {finding.text}")
    print(to / INDEX)
