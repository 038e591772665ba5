"""The README.md of a bundle: how to repeat its run, in three lines, and what it needs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jdl.store import log
from jdl.store.environment import POOL_VARIABLES, numerics_environment
from jdl.train.thread_pool import POOL_SIZE

SIMULATED = "xla_force_host_platform_device_count"  # a flag that does the same
TEXT = """# {name}: a run that repeats

```sh
python{python} -m venv ../repeat && . ../repeat/bin/activate
pip install -r requirements.txt
{variables}jdl repeat .
```

Call them in this folder. The last one trains the run again, and compares every step and every
saved state with the recorded ones, to the bit. Before, it checks the hash of each file, and says
which version, flag or kind of machine differs.

**It runs the code in this folder** (`run/code`, and jdl from `{wheel}`): repeat only what you
trust.

## The run

`{command}`: {steps:,} steps, seed {seed}.

| split | metric | value |
|---|---|---|
{results}

## Data

{data}

## What its bits depend on

{needs}
"""


def card(record: dict[str, Any], about: dict[str, Any], run: Path) -> str:
    """The README.md of a bundle, as Markdown; `run` is the folder of its run."""
    environment = record["environment"]
    return TEXT.format(
        name=record["config"]["name"],
        python=".".join(environment["versions"]["python"].split(".")[:2]),
        variables=_variables(environment),
        wheel=about["wheel"],
        command=shlex.join([*record["command"]]),
        steps=record["config"]["steps"],
        seed=record["seed"],
        results="\n".join(_results(run)),
        data="\n".join(_data(record, about)),
        needs="\n".join(f"- {name}: {value}" for name, value in _needs(record)),
    )


def _variables(environment: dict[str, Any]) -> str:
    """The assignments before the command: of what is not set by jdl itself."""
    variables, devices = environment["variables"], environment["devices"]
    needed = {
        name: value
        for name, value in variables.items()
        if name not in POOL_VARIABLES or value != str(POOL_SIZE)
    }
    if devices["kind"] == "cpu" and devices["local"] > 1 and SIMULATED not in str(needed):
        needed["JAX_NUM_CPU_DEVICES"] = str(devices["local"])
    return "".join(f"{name}={shlex.quote(value)} " for name, value in needed.items())


def _results(run: Path) -> Iterator[str]:
    """The metrics of the last evaluation of each split."""
    last = {line["split"]: line for line in log.read(run) if log.is_evaluated(line["split"])}
    for split, line in last.items():
        for metric, value in line.items():
            if metric not in ("step", "split") and "/" not in metric and value is not None:
                yield f"| {split} | {metric} | {value:.6g} |"


def _data(record: dict[str, Any], about: dict[str, Any]) -> Iterator[str]:
    """Where the data are, how to get those that are not in the folder, and their fingerprints."""
    for part in about["data"]:
        where = "in this folder" if part["included"] else f"not in this folder: {part['how']}"
        size = f", {part['bytes'] / 1e6:,.1f} MB" if part["files"] else ""
        yield f"- {part['name']}{size}: {where}"
    if about["outside"]:
        yield f"- read from outside of the folder it was trained in: {', '.join(about['outside'])}"
    if not about["data"] and not about["outside"]:
        yield "- made by its code, or part of the packages"
    for split, fingerprint in record["data"].items():
        yield f"- fingerprint of {split}: {fingerprint}"


def _needs(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in numerics_environment(record).items():
        if value not in (None, ""):
            yield name, value
