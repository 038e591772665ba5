"""The command line `jdl VERB`: one file for each verb, imported when that verb is called."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from typing import Any

from jdl.errors import Error
from jdl.train.broken_pipe import exit_at_broken_pipe

HELP = """jdl: deep learning on JAX that repeats to the bit.

  jdl train SCRIPT [--field value ...]    train an experiment, or resume it
  jdl launch N SCRIPT [--field value ...] the same in N processes on this machine
  jdl check SCRIPT [--field value ...]    does it train at all, and what would be wrong?
  jdl check SCRIPT --find-lr              learning rate range test: which rate to begin with
  jdl plan SCRIPT --topology v5e:4x8      will it fit on TPUs or GPUs not here, and how long?
  jdl study SCRIPT --grid lr=1e-3,3e-3    search hyperparameters, by the validation data
  jdl study FOLDER                        its trials, and which hyperparameters matter
  jdl runs [RUNS]                         list runs: progress, best metric, hyperparameters
  jdl show RUN                            a run's config, data, environment and results
  jdl show RUN --memory                   memory and FLOPs of one training step
  jdl profile SCRIPT|RUN                  which layers and lines of code take the time of a step
  jdl size RUN                            size by layer, and what quantization and pruning give
  jdl explain RUN [--rows 0,5,17]         what predictions rest on, errors, features: as pictures
  jdl evaluate RUN                        evaluate a checkpoint on the run's evaluation data
  jdl evaluate RUN --by RECOGNIZER        how well a speech recognizer hears text to speech
  jdl predict RUN INPUT ...               predict for images, npz arrays or text, as CSV or JSON
  jdl sample RUN --prompt TEXT            generate text with a language model
  jdl chat RUN                            talk to a model that was trained on dialogues
  jdl sample RUN -n 64 --out grid.png     generate images with a generative model
  jdl frechet RUN --by CLASSIFIER         Frechet distance of generated images from real ones
  jdl export RUN --to DIR                 a folder that predicts without jdl
  jdl verify DIR                          check an exported folder: its files and its answers
  jdl bundle RUN --to DIR                 a folder with which a run repeats on another machine
  jdl serve DIR ...                       serve exported models over HTTP
  jdl digest RUN                          SHA-256 of a checkpoint, equal for equal states
  jdl repeat RUN|BUNDLE                   train a run again and compare every step, to the bit
  jdl compare A B ...                     which runs are better, over their seeds, with evidence
  jdl report [RUNS] --to report.html      a page of results, curves, figures, data and cost
  jdl report [RUNS] --serve               the same page, live: it follows runs as they train
  jdl diff RUN_A RUN_B                    compare two runs: the first step that differs
  jdl doctor                              check what repeats to the bit on this machine
  jdl data look SCRIPT [--field value ...] counts, ranges, duplicates and a picture of the data
  jdl data prepare DATASET [--from DIR]   prepare a dataset for TensorFlow Datasets
  jdl data fetch DATASET [--from PATH]    download a dataset: cmudict, cora, quran, ...

`jdl COMMAND --help` explains a command; `jdl train SCRIPT --help` lists an experiment's flags.
RUN is a folder, or a run's name, digest, name/digest or name/digest/seedK under runs/.

Exit codes: 0 success; 1 check found something wrong, or repeat, diff, doctor or verify found a
difference; 2 wrong input (what is wrong and how to correct it is on standard error); 3 a loss,
gradient or parameter is NaN or infinite; 130 stopped by Ctrl-C, 143 by SIGTERM and 129 by SIGHUP
(a lost connection), in training after the current step was saved; 141 where nobody reads the
output any more, as of `jdl runs | head`.
"""
# Verbs that parse their own arguments.
WITH_SCRIPT = ("train", "launch", "check", "profile", "plan", "study", "data")
VERBS = (
    *WITH_SCRIPT,
    "runs",
    "show",
    "size",
    "explain",
    "evaluate",
    "predict",
    "sample",
    "chat",
    "frechet",
    "export",
    "verify",
    "bundle",
    "serve",
    "digest",
    "repeat",
    "compare",
    "report",
    "diff",
    "doctor",
)


def main() -> None:
    """Runs the verb in `sys.argv`; an `Error` ends the program with its message and exit code."""
    verb, *arguments = sys.argv[1:] or ["--help"]
    with exit_at_broken_pipe():
        try:
            with warnings_as_notes():
                call_verb(verb, arguments)
        except Error as error:
            print(f"jdl: {error}", file=sys.stderr)
            raise SystemExit(error.code) from None
        except KeyboardInterrupt:
            print("jdl: interrupted", file=sys.stderr)
            raise SystemExit(130) from None


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """A context in which jdl's own warnings are printed as its other notes, without a source line.

    Those that blame a line of the user's code keep it.
    """
    original, package = warnings.formatwarning, Path(__file__).parents[1]

    def as_note(message: Any, category: Any, filename: str, *place: Any) -> str:
        if category is UserWarning and Path(filename).is_relative_to(package):
            return f"jdl: {message}\n"
        return original(message, category, filename, *place)

    warnings.formatwarning = as_note  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.formatwarning = original


def call_verb(verb: str, arguments: list[str]) -> None:
    """Calls a verb: the function of that name in `jdl.cli.VERB`, whose docstring is its help."""
    if verb in ("-h", "--help", "help"):
        print(HELP, end="")
        return
    if verb not in VERBS:
        raise Error(_unknown(verb))
    function = getattr(import_module(f"jdl.cli.{verb}"), verb)
    if verb in WITH_SCRIPT and arguments[:1] in (["-h"], ["--help"]):
        print("\n".join(line for line in HELP.splitlines() if line.startswith(f"  jdl {verb} ")))
        print(f"\n{getdoc(function)}")
        if verb != "data":
            print(f"\n`jdl {verb} SCRIPT --help` lists all flags.")
        return
    if verb in WITH_SCRIPT:
        function(arguments)
        return
    import tyro  # not needed for `jdl --help`

    options = (tyro.conf.FlagCreatePairsOff,)
    tyro.cli(function, prog=f"jdl {verb}", args=arguments, config=options)


def _unknown(verb: str) -> str:
    import difflib

    similar = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f" Did you mean {similar[0]}?" if similar else ""
    return f"There is no command {verb!r}.{hint} `jdl --help` lists all commands."
