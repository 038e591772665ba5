"""`jdl profile`: which layers and lines of code take the time of a training step?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from jdl.errors import Error

if TYPE_CHECKING:
    from jdl.run import Run


@dataclass(frozen=True)
class ProfileOptions:
    """Options of `jdl profile`."""

    profile_steps: int = 10
    """Steps to measure, after a few that warm up."""
    out: Path | None = None
    """The trace for Perfetto, a .json.gz file; by default profile/NAME.json.gz."""
    root: Path = Path("runs")
    """The folder of runs, for the name of a run."""
    devices: int | None = None
    """Divide each batch among this many devices."""
    mesh: str = ""
    """A device mesh, e.g. data=4,model=2."""


def profile(arguments: list[str]) -> None:
    """Profiles the experiment in a script, with fields of its config, or a run as it is."""
    if not arguments or arguments[0].startswith("-"):
        raise Error(
            "jdl profile needs the script of an experiment or a run first: "
            "jdl profile SCRIPT.py|RUN [--field value ...] [--profile-steps N]."
        )
    from jdl.cli.startup import set_up_jax
    from jdl.config import Options
    from jdl.inspect.profile import profile as measure

    set_up_jax()
    run, chosen = (_of_script if arguments[0].endswith(".py") else _of_run)(*arguments)
    out = chosen.out or Path("profile", f"{run.config.name}.json.gz")
    if not out.name.endswith(".json.gz"):
        raise Error(f"--out is a trace for Perfetto, a .json.gz file, not {out}.")
    options = Options(devices=chosen.devices, mesh=chosen.mesh)
    print(measure(run, out, chosen.profile_steps, options))


def _of_script(script: str, *flags: str) -> tuple[Run, ProfileOptions]:
    from jdl.train import experiment
    from jdl.train.command_line import parse
    from jdl.train.placement import apply_config

    module, run, config = experiment.load(Path(script))
    prog, description = f"jdl profile {script}", module.__doc__ or ""
    c, options = parse(config, list(flags), prog, description, ProfileOptions)
    return apply_config(experiment.prepare(run, c, list(flags), Path(script))), options


def _of_run(name: str, *flags: str) -> tuple[Run, ProfileOptions]:
    from jdl.store.catalog import find
    from jdl.train.experiment import rebuild

    options = tyro.cli(ProfileOptions, args=flags, prog=f"jdl profile {name}")
    return rebuild(find(name, options.root)), options
