"""`jdl verify`: whether an exported model is as it was exported."""

import sys
from pathlib import Path
from typing import Annotated

import tyro


def verify(
    folder: Annotated[
        Path,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="DIR", help="A folder that `jdl export` wrote."),
    ],
) -> None:
    """Check an exported model: the hash of each file, and the answers to its examples."""
    from jdl.cli.startup import set_up_jax
    from jdl.export.folder import verify as verify_folder

    set_up_jax()
    wrong = verify_folder(folder)
    for problem in wrong:
        print(f"{folder}: {problem}", file=sys.stderr)
    if wrong:
        raise SystemExit(1)
    print(f"{folder}: all files and answers are as they were exported")
