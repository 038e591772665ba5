"""`jdl report`: a report of runs, as a page, in Markdown or LaTeX, or live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from jdl.cli.arguments import Root
from jdl.errors import Error


def report(
    runs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="[RUNS]",
            help="A folder, name, digest or name/digest, or a pattern, as 'cnn/*/seed0'; without "
            "any all runs.",
        ),
    ] = (),
    to: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE",
            help="File to write, .html, .md (Markdown) or .tex (LaTeX); by default report.html.",
        ),
    ] = None,
    root: Root = Path("runs"),
    no_rebuild: Annotated[
        bool,
        tyro.conf.arg(
            help="Do not run the runs' code: leaves out rows and columns of the data, and the "
            "number of operations."
        ),
    ] = False,
    watts: Annotated[
        float | None, tyro.conf.arg(help="Power of one device, to estimate the energy by.")
    ] = None,
    serve: Annotated[
        bool, tyro.conf.arg(help="Serve the page on this machine, and follow runs as they train.")
    ] = False,
    port: Annotated[int, tyro.conf.arg(help="With --serve: port; 0 takes a free one.")] = 8001,
) -> None:
    """Report runs: results with intervals, curves, figures, configs, data, environment, cost."""
    from jdl.cli.startup import set_up_jax

    if serve and to is not None:
        raise Error(f"--serve writes no file: leave out --to {to}, or --serve.")
    set_up_jax()
    if serve:
        _serve(runs, root, not no_rebuild, watts, port)
        return
    import jdl.report

    print(jdl.report.report(runs, to or "report.html", root, not no_rebuild, watts))


def _serve(
    runs: tuple[str, ...], root: Path, rebuild: bool, watts: float | None, port: int
) -> None:
    try:
        from jdl.report.live import serve
    except ModuleNotFoundError as error:
        raise Error(f"Serving needs {error.name}: pip install 'jdl[serve]'.") from error
    serve(runs, root, rebuild, watts, port)
