"""`jdl train`: train an experiment."""

from pathlib import Path

from jdl.errors import Error


def train(arguments: list[str]) -> None:
    """Trains the experiment in a script; the other arguments are fields of its config."""
    if not arguments or arguments[0].startswith("-"):
        raise Error(
            "jdl train needs the script of an experiment first: "
            "jdl train SCRIPT.py [--field value ...]."
        )
    from jdl.train import experiment

    script, *flags = arguments
    with experiment.exit_on_error():
        experiment.train(Path(script), flags, f"jdl train {script}")
