"""Config: a frozen dataclass is the command line, the record and the name of the run's folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from jdl.learners.mixed_precision import Precision
from jdl.types import Error


@dataclass(frozen=True)
class Config:
    """What determines the numbers of a run. Inherit from it and add your fields: they become flags."""

    name: str = ""
    """Folder of the runs of this experiment; the script's name by default."""
    seed: int = 0
    """Seed of the run: of its initial parameters, dropout, order and augmentation."""
    steps: int = 1_000
    """Updates to train for."""
    patience: int = 0
    """Stop after so many checks in a row without a better value on the validation set; 0 never stops early."""
    check_every: int = 100
    """Steps from one such check to the next."""
    elastic: int = 0
    """Shards of a batch, a power of two: the same bits on 1, 2, 4, ... devices up to as many; 0 for none."""
    precision: Precision = "float32"
    """Of what models compute; parameters and optimizer state are kept in float32."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss, gradients or parameters are not finite ends the run, or is left out and counted."""

    def __post_init__(self) -> None:
        for field, least in (
            ("seed", 0),
            ("steps", 1),
            ("patience", 0),
            ("check_every", 1),
            ("elastic", 0),
        ):
            if getattr(self, field) < least:
                raise Error(
                    f"--{field.replace('_', '-')} must be {least} or more, and {getattr(self, field)} is not."
                )
        if self.name != Path(self.name).name:
            raise Error(
                f"--name is the name of one folder, without slashes, and {self.name!r} is not."
            )


@dataclass(frozen=True)
class Options:
    """Where and how a run is carried out; none of these changes its numbers."""

    root: Path = Path("runs")
    """Folder that all runs lie in."""
    log_every: int = 25
    """Steps between the logged training metrics."""
    eval_every: int | None = None
    """Steps between evaluations; by default a twentieth of the run, 0 for only at the end."""
    save_every: int | None = None
    """Steps between checkpoints; by default a twentieth of the run, 0 for only at the end."""
    keep: int = 2
    """How many of the latest checkpoints to keep, beside the best."""
    devices: int | None = None
    """Divide each batch among so many devices; by default one device has all."""
    mesh: str = ""
    """Devices by what they divide: data=4,model=2; fsdp=8 divides parameters and optimizer state too."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How the step is compiled for several devices; pmap divides batches alone."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes; SLURM, Open MPI, GKE and TPU pods tell it by themselves."""
    processes: int | None = None
    """How many processes train this run together, with --coordinator."""
    process: int | None = None
    """Which of them this is, from 0."""
    until: int | None = None
    """Pause after this step, which is saved; the same command without it goes on."""
    accept: tuple[Literal["config", "data", "best"], ...] = ()
    """Go on with a run although its config, its data or the metric that it is judged by has changed; it is recorded."""
    fresh: bool = False
    """Start anew: an earlier run of this config and seed is moved aside, never deleted."""
    quiet: bool = False
    """Print only errors."""

    def __post_init__(self) -> None:
        for field, least in (
            ("log_every", 1),
            ("eval_every", 0),
            ("save_every", 0),
            ("keep", 1),
            ("until", 1),
        ):
            value = getattr(self, field)
            if value is not None and value < least:
                raise Error(
                    f"--{field.replace('_', '-')} must be {least} or more, and {value} is not."
                )


C = TypeVar("C", bound=Config)


def parse(config: type[C], argv: list[str], prog: str, description: str = "") -> tuple[C, Options]:
    """The config and the options that a command line gives; a wrong flag or value ends the program with code 2."""
    both = dataclasses.make_dataclass("Arguments", [("experiment", config), ("running", Options)])
    found: Any = tyro.cli(
        both,
        args=argv,
        prog=prog,
        description=description,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return found.experiment, found.running


def to_json(config: Config) -> dict[str, Any]:
    """The config as JSON has it; `Error` for a field that JSON cannot hold exactly."""
    values = dataclasses.asdict(config)
    for field, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Error(
                f"The config's field {field} is {value!r}, which cannot be recorded ({error}): use numbers, text, "
                "truth values, tuples of these, or dataclasses."
            ) from None
    return json.loads(json.dumps(values))


def from_json(config: type[C], values: dict[str, Any]) -> C:
    """The config that `to_json` recorded."""
    known = {field.name for field in dataclasses.fields(config)}
    if set(values) - known:
        raise Error(
            f"The recorded config has fields that the script no longer has: {', '.join(set(values) - known)}."
        )
    hints = typing.get_type_hints(config)
    return config(**{name: _thaw(hints[name], value) for name, value in values.items()})


def _thaw(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _thaw(hints[name], v) for name, v in value.items()})
    if isinstance(value, list):
        return tuple(_thaw(None, v) for v in value)
    return value


def digest(config: Config) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the config's canonical JSON, without the seed."""
    values = {name: value for name, value in to_json(config).items() if name != "seed"}
    return hashlib.sha256(
        json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()[:12]


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs between two recorded configs, field by field, in one line."""
    fields = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return "; ".join(
        f"{name}: {old.get(name, 'absent')} there, {new.get(name, 'absent')} here"
        for name in fields
    )
