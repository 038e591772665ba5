"""Arguments that several verbs have in common."""

from pathlib import Path
from typing import Annotated

import tyro

Root = Annotated[Path, tyro.conf.arg(help="Folder that contains all runs.")]
RunName = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="RUN", help="A run's folder, or its name, digest, name/digest or name/digest/seedK."
    ),
]
Best = Annotated[bool, tyro.conf.arg(help="Use the best checkpoint instead of the newest.")]
Draws = Annotated[int, tyro.conf.arg(help="Random seed: the same seed gives the same samples.")]
