"""`jdl launch`: train an experiment in several processes."""

from pathlib import Path

from jdl.errors import Error


def launch(arguments: list[str]) -> None:
    """Trains the experiment in a script in N processes on this machine."""
    if len(arguments) < 2 or not arguments[0].isdecimal() or not int(arguments[0]):
        raise Error(
            "jdl launch needs a number of processes and a script: "
            "jdl launch 2 SCRIPT.py [--field value ...]."
        )
    from jdl.train.launch import launch as launch_processes

    count, script, *flags = arguments
    raise SystemExit(launch_processes(int(count), Path(script), flags))
