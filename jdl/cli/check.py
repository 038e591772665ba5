"""`jdl check`: does an experiment train at all, and what would be wrong?"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jdl.errors import Error


@dataclass(frozen=True)
class CheckOptions:
    """Options of `jdl check`."""

    check_steps: int = 100
    """Steps of each short training: on one batch, on shuffled labels, of the range test."""
    find_lr: bool = False
    """Only search for a learning rate, by a learning rate range test."""
    out: Path | None = None
    """Picture of the range test to write; by default check/NAME-lr.png."""


def check(arguments: list[str]) -> None:
    """Checks the experiment in a script; the other arguments are fields of its config."""
    if not arguments or arguments[0].startswith("-"):
        raise Error(
            "jdl check needs the script of an experiment first: "
            "jdl check SCRIPT.py [--field value ...] [--find-lr]."
        )
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.learning_rate import find_learning_rate
    from jdl.inspect.sanity import sanity_check
    from jdl.train import experiment
    from jdl.train.command_line import parse

    script, flags = Path(arguments[0]), arguments[1:]
    set_up_jax()
    with _report_exceptions(str(script), script):
        module, run, config = experiment.load(script)
    c, options = parse(config, flags, f"jdl check {script}", module.__doc__ or "", CheckOptions)
    if options.out and (not options.find_lr or options.out.suffix != ".png"):
        raise Error("--out is the picture of --find-lr, a .png file.")
    with _report_exceptions(f"run(c) of {script}", script):
        prepared = experiment.prepare(run, c, flags, script)
    if options.find_lr:
        rates = find_learning_rate(prepared, options.check_steps)
        picture = options.out or Path("check", f"{prepared.config.name}-lr.png")
        rates.draw(picture)
        print(f"{rates}\n\n{picture}")
        return
    report = sanity_check(prepared, options.check_steps)
    print(report)
    if not report.sound:
        raise SystemExit(1)


@contextmanager
def _report_exceptions(code: str, script: Path) -> Iterator[None]:
    """An exception of the user's code as an `Error` with its line."""
    try:
        yield
    except Error:
        raise
    except Exception as error:  # the user's code raises any
        from jdl.inspect.exceptions import with_line

        raise Error(
            f"{code} raises {with_line(error)}: mend that first; jdl train {script} shows the "
            "whole traceback."
        ) from error
