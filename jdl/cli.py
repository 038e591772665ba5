"""The command line: `jdl VERB`. Every verb is a function here whose docstring is its help."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jdl.types import Error

Root = Annotated[Path, tyro.conf.arg(help="Folder that all runs lie in.")]
RunName = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RUN", help="A run's folder, or its name, digest, name/digest or name/digest/seedK."),
]
Best = Annotated[bool, tyro.conf.arg(help="The best checkpoint instead of the newest.")]


def runs(root: Root = Path("runs")) -> None:
    """List the runs: name, digest, seed, step, best metric and state."""
    from rich.console import Console
    from rich.table import Table

    from jdl.runs.catalog import all_runs

    table = Table("name", "digest", "seed", "step", "best", "state", box=None, pad_edge=False)
    for run in all_runs(root):
        config = run.record["config"]
        step = f"{run.step:,}/{config['steps']:,}"
        table.add_row(run.name, run.record["digest"], run.folder.name.removeprefix("seed"), step, run.best, run.status)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def show(run: RunName, root: Root = Path("runs")) -> None:
    """Show a run: config, data, environment, progress and results."""
    import json

    from jdl.runs.catalog import entry, find

    found = entry(find(run, root))
    print(f"{found.folder}  {found.status}, step {found.step:,} of {found.record['config']['steps']:,}  {found.best}")
    print(json.dumps(found.record, indent=1))
    summary = found.folder / "summary.json"
    if summary.exists():
        print(summary.read_text(), end="")


def evaluate(run: RunName, root: Root = Path("runs"), best: Best = False) -> None:
    """Evaluate a run's checkpoint on its evaluation sets."""
    from jdl.runs import restored
    from jdl.runs.catalog import find

    _ready()
    found = restored.restore(find(run, root), best)
    print(f"step {found.step:,}")
    for split, numbers in restored.evaluate(found).items():
        for name, value in numbers.items():
            print(f"{split:<6} {name:<24} {value:.6f}")


def predict(
    run: RunName,
    inputs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="INPUT", help="Image files, or npz files with an array x of one row an input."),
    ],
    root: Root = Path("runs"),
    best: Best = False,
    format: Annotated[Literal["csv", "json"], tyro.conf.arg(help="How to print the predictions.")] = "csv",
) -> None:
    """Predict labels and probabilities, or values, for images or arrays."""
    from jdl.runs import restored
    from jdl.runs.catalog import find

    if not inputs:
        raise Error("Name at least one input: image files, or npz files with an array x.")
    _ready()
    rows = restored.predict(restored.restore(find(run, root), best), inputs)
    print(restored.as_csv(rows) if format == "csv" else restored.as_json(rows), end="")


def digest(run: RunName, root: Root = Path("runs"), best: Best = False) -> None:
    """Print the SHA-256 of params, carry and optimizer state: equal runs print equal digests."""
    from jdl.runs import restored
    from jdl.runs.catalog import find
    from jdl.runs.checkpoints import state_digest

    _ready()
    found = restored.restore(find(run, root), best)
    print(f"{state_digest(found.state)}  step {found.step}")


def prepare(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET", help="Its name in TFDS.")],
    source: Annotated[
        Path | None,
        tyro.conf.arg(name="from", metavar="DIR", help="Folder with the four IDX files of mnist or fashion_mnist."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        tyro.conf.arg(help="Where to put it: $TFDS_DATA_DIR or ~/tensorflow_datasets by default."),
    ] = None,
) -> None:
    """Prepare a dataset for TFDS, by downloading it or from files at hand."""
    from jdl.data.prepare import prepare as prepare_dataset
    from jdl.runs.environment import quiet_libraries

    quiet_libraries()
    print(f"{name} is prepared in {prepare_dataset(name, source, data_dir)}")


VERBS: dict[str, Any] = {
    "runs": runs,
    "show": show,
    "evaluate": evaluate,
    "predict": predict,
    "digest": digest,
}

HELP = """jdl: deep learning as pairs of pure functions.

  jdl train SCRIPT [--field value ...]   train an experiment, or go on where it was stopped
  jdl runs                               list the runs
  jdl show RUN                           a run's config, data, environment and results
  jdl evaluate RUN                       evaluate a checkpoint
  jdl predict RUN INPUT ...              labels and probabilities for images or npz arrays, as CSV or JSON
  jdl digest RUN                         SHA-256 of the newest state: equal runs print equal digests
  jdl data prepare DATASET [--from DIR]  prepare a dataset for TensorFlow Datasets

`jdl VERB --help` says more of each; `jdl train SCRIPT --help` lists the fields of that experiment.
RUN is a folder, or a run's name, digest, name/digest or name/digest/seedK under runs/.
Exit codes: 0 done; 2 bad input, with what is wrong and what to do on standard error; 3 a loss, gradient or parameter
that is not finite; 130 interrupted by Ctrl-C.
"""


def main() -> None:
    """The console script `jdl`."""
    from jdl.runs.experiment import told

    verb, *rest = sys.argv[1:] or ["--help"]
    with told():
        if verb in ("-h", "--help", "help"):
            print(HELP, end="")
        elif verb == "train":
            _train(rest)
        elif verb == "data" and rest[:1] == ["prepare"]:
            tyro.cli(prepare, prog="jdl data prepare", args=rest[1:])
        elif verb in VERBS:
            tyro.cli(VERBS[verb], prog=f"jdl {verb}", args=rest, config=(tyro.conf.FlagCreatePairsOff,))
        else:
            raise Error(_unknown(verb))


def _train(arguments: list[str]) -> None:
    from jdl.runs.experiment import train

    if not arguments or arguments[0].startswith("-"):
        raise Error("jdl train needs the script of an experiment first: jdl train SCRIPT.py [--field value ...].")
    script, *flags = arguments
    train(Path(script), flags, f"jdl train {script}")


def _unknown(verb: str) -> str:
    import difflib

    near = difflib.get_close_matches(verb, ["train", "data", *VERBS], n=1)
    return f"There is no verb {verb!r}.{f' Did you mean {near[0]}?' if near else ''} `jdl --help` lists them."


def _ready() -> None:
    from jdl.runs.environment import quiet_libraries, use_compilation_cache

    quiet_libraries()
    use_compilation_cache()
