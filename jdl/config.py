"""Config: a frozen dataclass is the command line, the record and the name of the run's folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from jdl.types import Error, Precision


@dataclass(frozen=True)
class Config:
    """The hyperparameters of a run: all that determines its numbers.

    Inherit from it and add your fields: they become command-line flags.
    """

    name: str = ""
    """Folder of the runs of this experiment; the script's name by default."""
    seed: int = 0
    """Random seed of the run: of its initial parameters, dropout, order and augmentation."""
    steps: int = 1_000
    """Updates to train for."""
    patience: int = 0
    """Early stopping after so many checks in a row without a better validation metric; 0: never."""
    check_every: int = 100
    """Steps from one check of early stopping to the next."""
    elastic: int = 0
    """Shards of a batch, a power of two: the same bits on 1, 2, 4, ... devices; 0 for none."""
    precision: Precision = "float32"
    """Type that models compute in; parameters and optimizer state stay in float32."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """End the run, or skip the step, where loss, gradients or parameters are NaN or infinite."""

    def __post_init__(self) -> None:
        least = {"seed": 0, "steps": 1, "patience": 0, "check_every": 1, "elastic": 0}
        _check_least(self, least)
        if self.name != Path(self.name).name:
            raise Error(
                f"--name is the name of one folder, without slashes, and {self.name!r} is not."
            )


@dataclass(frozen=True)
class Options:
    """Where and how a run is carried out, and how it is observed.

    None of these changes a run's numbers, but for `devices`, `mesh` and `parallel`, which change
    them by rounding (docs/devices.md says by how much), and not at all with `Config.elastic`.
    """

    root: Path = Path("runs")
    """Folder that contains all runs."""
    log_every: int = 25
    """Steps between the logged training metrics."""
    eval_every: int | None = None
    """Steps between evaluations; 0 for only at the end.

    By default a twentieth of the run, or more where evaluating would cost above a tenth of
    training.
    """
    save_every: int | None = None
    """Steps between checkpoints; by default a twentieth of the run, 0 for only at the end."""
    keep: int = 2
    """How many of the latest checkpoints to keep, beside the best."""
    devices: int | None = None
    """Data parallel: divide each batch among so many devices; by default one device has all."""
    mesh: str = ""
    """Devices by what they divide: data=4,model=2; fsdp=8 divides parameters and optimizer too."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How the step is compiled for several devices; pmap divides batches alone."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes; SLURM, Open MPI, GKE and TPU pods need none."""
    processes: int | None = None
    """How many processes train this run together, with --coordinator."""
    process: int | None = None
    """The number of this process, from 0."""
    until: int | None = None
    """Pause after this step, which is saved; the same command without it goes on."""
    accept: tuple[Literal["config", "data", "best"], ...] = ()
    """Resume although the config, the data or the metric of the best checkpoint has changed."""
    fresh: bool = False
    """Start again: an earlier run of this config and seed is moved aside, never deleted."""
    quiet: bool = False
    """Print only the result and errors."""

    def __post_init__(self) -> None:
        least = {"log_every": 1, "eval_every": 0, "save_every": 0, "keep": 1, "until": 1}
        _check_least(self, least)


def _check_least(values: Any, least: dict[str, int]) -> None:
    """Raises `Error` where a field that is set is below the least value that it may have."""
    for field, bound in least.items():
        value = getattr(values, field)
        if value is not None and value < bound:
            flag = f"--{field.replace('_', '-')}"
            raise Error(f"{flag} must be {bound} or more, and {value} is not.")


C = TypeVar("C", bound=Config)


def to_json(config: Config) -> dict[str, Any]:
    """The config as a JSON object; `Error` for a field that JSON cannot hold exactly."""
    values = dataclasses.asdict(config)
    for field, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Error(
                f"The config's field {field} is {value!r}, which cannot be recorded ({error}): use "
                "numbers, text, truth values, tuples of these, or dataclasses."
            ) from None
    return json.loads(json.dumps(values))


def from_json(config: type[C], values: dict[str, Any]) -> C:
    """The config that `to_json` recorded."""
    unknown = set(values) - {field.name for field in dataclasses.fields(config)}
    if unknown:
        raise Error(
            "The recorded config has fields that the script no longer has: "
            f"{', '.join(sorted(unknown))}."
        )
    hints = typing.get_type_hints(config)
    return config(**{name: _from_json(hints[name], value) for name, value in values.items()})


def _from_json(hint: Any, value: Any) -> Any:
    """A field's value: a nested dataclass of a dict, a tuple of a list."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _from_json(hints[name], v) for name, v in value.items()})
    if isinstance(value, list):
        return tuple(_from_json(None, v) for v in value)
    return value


def digest(config: Config) -> str:
    """The config digest: 12 hexadecimal digits of the SHA-256 of its JSON, without the seed."""
    values = {name: value for name, value in to_json(config).items() if name != "seed"}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def difference(
    old: dict[str, Any], new: dict[str, Any], names: tuple[str, str] = ("there", "here")
) -> str:
    """What differs between two records, field by field, in one line; `names` say which is which."""
    fields = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    values = ((name, old.get(name, "absent"), new.get(name, "absent")) for name in fields)
    one, other = names
    return "; ".join(f"{name}: {before} {one}, {now} {other}" for name, before, now in values)
