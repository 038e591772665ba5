"""Hyperparameters (`Config`) and options of a run (`Options`), as frozen dataclasses.

Their fields are the command-line flags. The config is recorded with the run, and its digest names
the run's folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeVar

from jdl.types import Error, Precision


@dataclass(frozen=True)
class Config:
    """The hyperparameters of a run: everything that determines its numbers, beside the data.

    Inherit from it and add your own fields: they become command-line flags.
    """

    name: str = ""
    """Name of the experiment, and of the folder of its runs; by default the script's name."""
    seed: int = 0
    """Random seed of initialization, dropout, shuffling and data augmentation."""
    steps: int = 1_000
    """Training steps: updates of the parameters."""
    epochs: float = 0
    """Epochs, passes over the training data, instead of steps; 0: the steps are given."""
    patience: int = 0
    """Early stopping after this many checks in a row without a better metric; 0: never."""
    check_every: int = 100
    """Steps between two checks of early stopping."""
    elastic: int = 0
    """Elastic training: shards per batch, a power of two; same bits on 1, 2, 4 devices; 0: off."""
    precision: Precision = "float32"
    """Mixed precision: the type of computation; parameters and optimizer state stay float32."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Where loss, gradients or parameters are NaN or infinite: stop the run, or skip the step."""

    def __post_init__(self) -> None:
        least = {"seed": 0, "steps": 1, "patience": 0, "check_every": 1, "elastic": 0}
        _check_least(self, least)
        if not 0 <= self.epochs < float("inf"):
            raise Error(f"--epochs must be a number above 0, not {self.epochs}.")
        if self.name != Path(self.name).name:
            raise Error(
                f"--name must be the name of one folder, without slashes, not {self.name!r}."
            )


@dataclass(frozen=True)
class Options:
    """Options of a training: folder, logging, evaluation, checkpoints, devices and processes.

    None of these changes a run's numbers, except `devices`, `mesh` and `parallel`, which change
    rounding (docs/devices.md says by how much; with --elastic not even that), and `steps_per_call`
    above 1, which may (docs/speed.md).
    """

    root: Path = Path("runs")
    """Folder that contains all runs."""
    mirror: str = ""
    """Copy each checkpoint and the logs to object storage, s3://bucket/path or another URL of
    fsspec; where the run's folder is gone, bring it back from there (docs/scale.md)."""
    log_every: int = 25
    """Steps between two logged lines of training metrics."""
    eval_every: int | None = None
    """Steps between evaluations; 0: only at the end; by default 20 in a run, fewer if costly."""
    save_every: int | None = None
    """Steps between checkpoints; 0: only at the end; by default 20 in a run."""
    keep: int = 2
    """Number of latest checkpoints to keep, beside the best."""
    devices: int | None = None
    """Data parallel: divide each batch among this many devices; by default one device is used."""
    mesh: str = ""
    """Mesh, e.g. data=4,model=2 or fsdp=8: data parallel, tensor parallel, fully sharded."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How the step is compiled for several devices; pmap is data parallel only."""
    steps_per_call: int = 1
    """Most steps in one call of the device: for steps of less than a millisecond on data that it
    holds; a call ends with the epoch, and where a run is evaluated or saved."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes; SLURM, Open MPI, GKE and TPU pods need none."""
    processes: int | None = None
    """Number of processes that train this run together, with --coordinator."""
    process: int | None = None
    """Index of this process, from 0."""
    until: int | None = None
    """Save and stop after this step; the same command without --until resumes."""
    accept: tuple[Literal["config", "data", "best", "pretrained"], ...] = ()
    """Resume although the config, the data, the metric of the best checkpoint or the pretrained
    weights have changed."""
    track: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ()
    """Send the metrics to trackers too: metrics.csv, TensorBoard's HParams, W&B, MLflow."""
    fresh: bool = False
    """Start from step 0: an earlier run of this config and seed is moved aside, not deleted."""
    quiet: bool = False
    """Print only the result and errors."""

    def __post_init__(self) -> None:
        least = {"log_every": 1, "eval_every": 0, "save_every": 0, "keep": 1, "until": 1}
        least |= {"steps_per_call": 1}
        _check_least(self, least)
        scheme = next(iter(Path(self.root).parts), "")
        if len(scheme) > 2 and scheme.endswith(":"):  # of gs://bucket/runs; c: is a disk
            raise Error(
                f"--root must be a folder of a file system, and {scheme}// is not one: leave it on "
                f"a disk, and let --mirror {scheme}//... copy the run to the bucket and back; or "
                "mount the bucket (gcsfuse, mountpoint-s3) and name its folder."
            )


def _check_least(values: Any, least: dict[str, int]) -> None:
    """Raises `Error` where a field is no whole number, or below its smallest allowed value."""
    for field, bound in least.items():
        value = getattr(values, field)
        if value is not None and not (isinstance(value, Integral) and int(value) >= bound):
            flag = f"--{field.replace('_', '-')}"
            raise Error(f"{flag} must be {bound} or more, not {value!r}.")


C = TypeVar("C", bound=Config)


def to_json(config: Config) -> dict[str, Any]:
    """The config as a JSON object; `Error` for a field that JSON cannot hold exactly.

    Without epochs, the object has no such field, as before the field existed: the digest, which
    names the run's folder, has to stay.
    """
    values = dataclasses.asdict(config)
    epochs = float(values.pop("epochs"))
    values |= {"epochs": epochs} if epochs else {}
    for field, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Error(
                f"The config's field {field} is {value!r}, which cannot be recorded ({error}): use "
                "numbers, strings, booleans, tuples of these, or dataclasses; for a choice "
                "typing.Literal, for a path str."
            ) from None
    return json.loads(json.dumps(values))


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a config that `to_json` recorded; those of a part of it as part.field."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flat_config(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def from_json(config: type[C], values: dict[str, Any]) -> C:
    """The config that `to_json` recorded."""
    unknown = set(values) - _names(config)
    if unknown:
        raise Error(
            "The recorded config has fields that the script no longer has: "
            f"{', '.join(sorted(unknown))}. Put them back into Config."
        )
    hints = typing.get_type_hints(config)
    fields = {name: _from_json(hints[name], value) for name, value in values.items()}
    return config(**{"epochs": 0.0, **fields})


def _from_json(hint: Any, value: Any) -> Any:
    """A field's value from JSON: a dict becomes a dataclass of the hint, a list a tuple."""
    kinds: list[Any] = [hint, *typing.get_args(hint)]  # of `Part | None`, one of these
    parts = [kind for kind in kinds if hasattr(kind, "__dataclass_fields__")]
    if isinstance(value, dict) and parts:
        fitting = [kind for kind in parts if value.keys() <= _names(kind)]
        if not fitting:
            raise Error(
                f"The recorded config has {value!r}, which has fields that "
                f"{' and '.join(kind.__name__ for kind in parts)} no longer has: put them back."
            )
        kind = min(fitting, key=lambda kind: len(_names(kind)))  # new fields have their defaults
        hints = typing.get_type_hints(kind)
        return kind(**{name: _from_json(hints[name], v) for name, v in value.items()})
    if isinstance(value, list):
        items = next((typing.get_args(k) for k in kinds if typing.get_origin(k) is tuple), ())
        many = items[:1] * len(value) if items[1:] == (...,) else items
        return tuple(_from_json(*pair) for pair in zip_longest(many[: len(value)], value))
    return value


def _names(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def digest(config: Config) -> str:
    """The config digest: 12 hexadecimal digits of the SHA-256 of its JSON, without the seed."""
    values = {name: value for name, value in to_json(config).items() if name != "seed"}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def difference(
    old: dict[str, Any], new: dict[str, Any], names: tuple[str, str] = ("there", "here")
) -> str:
    """The fields in which two records differ, with both values, in one line of text."""
    fields = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    values = ((name, old.get(name, "absent"), new.get(name, "absent")) for name in fields)
    where_old, where_new = names
    return "; ".join(f"{name}: {a} {where_old}, {b} {where_new}" for name, a, b in values)
