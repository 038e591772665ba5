"""`jdl bundle`: a run as a folder that repeats elsewhere."""

from pathlib import Path
from typing import Annotated

import tyro

from jdl.cli.arguments import Root, RunName


def bundle(
    run: RunName,
    to: Annotated[Path, tyro.conf.arg(metavar="DIR", help="The new folder.")],
    root: Root = Path("runs"),
    data_mb: Annotated[
        int,
        tyro.conf.arg(help="Put the data into it where they are at most so many million bytes."),
    ] = 50,
    anyway: Annotated[
        bool, tyro.conf.arg(help="Bundle a run that is not finished, as far as it has come.")
    ] = False,
) -> None:
    """Write a folder with which a run repeats elsewhere: code, versions, data, recorded numbers."""
    from jdl.bundle.folder import write
    from jdl.cli.startup import set_up_jax
    from jdl.store.catalog import find

    set_up_jax()
    print(write(find(run, root), to, anyway, data_mb * 10**6))
