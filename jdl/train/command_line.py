"""The command line of an experiment: the fields of its config and of the options, as flags."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, TypeVar

import tyro

from jdl.config import Config
from jdl.types import Error

C = TypeVar("C", bound=Config)
Rest = TypeVar("Rest")


def parse(
    config: type[C], argv: list[str], prog: str, description: str, options: type[Rest]
) -> tuple[C, Rest]:
    """Parses a command line into config and other options; a wrong flag exits with code 2.

    Raises `Error` where a field of the config has the name of an option.
    """
    names, others = (vars(kind)["__dataclass_fields__"] for kind in (config, options))
    if twice := sorted(names.keys() & others):
        raise Error(
            f"{config.__name__} has a field {twice[0]}, and jdl has an option of that name, "
            f"--{twice[0].replace('_', '-')}: give the field another name."
        )
    # Without a prefix of their own; a dataclass within the config has one, --encoder.widths.
    parts = {"experiment": config, "running": options}
    unnamed = [(name, Annotated[part, tyro.conf.arg(name="")]) for name, part in parts.items()]
    both = dataclasses.make_dataclass("Arguments", unnamed)
    arguments: Any = tyro.cli(
        both,
        args=argv,
        prog=prog,
        description=description,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return arguments.experiment, arguments.running
