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
Temperature = Annotated[float, tyro.conf.arg(help="Sampling temperature; 0 is greedy decoding.")]
TopK = Annotated[
    int, tyro.conf.arg(help="Top-k sampling: only the k most likely tokens; 0: all tokens.")
]
TopP = Annotated[
    float,
    tyro.conf.arg(
        help="Nucleus (top-p) sampling: only the most likely tokens of this total probability."
    ),
]
