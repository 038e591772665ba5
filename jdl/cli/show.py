"""`jdl show`: a run's record, progress and results, or the cost of its step."""

import json
from pathlib import Path
from typing import Annotated

import tyro

from jdl.cli.arguments import Root, RunName


def show(
    run: RunName,
    root: Root = Path("runs"),
    memory: Annotated[
        bool,
        tyro.conf.arg(
            help="Measure one training step on this machine instead: "
            "memory, FLOPs, and the share of the peak FLOP/s."
        ),
    ] = False,
    devices: Annotated[
        int | None, tyro.conf.arg(help="With --memory: divide each batch among this many devices.")
    ] = None,
    mesh: Annotated[
        str, tyro.conf.arg(help="With --memory: use this device mesh, e.g. data=4,model=2.")
    ] = "",
) -> None:
    """Show a run: config, data, environment, progress and results; or the cost of one step."""
    if memory:
        _print_cost(run, root, devices, mesh)
        return
    from jdl.store.catalog import entry, find
    from jdl.store.folder import read_json

    shown = entry(find(run, root))
    print(shown)
    print(json.dumps(shown.record, indent=1))
    summary = shown.folder / "summary.json"
    if summary.exists():
        print(json.dumps(read_json(summary), indent=1))


def _print_cost(run: str, root: Path, devices: int | None, mesh: str) -> None:
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.cost import cost
    from jdl.parallel import build_mesh
    from jdl.store.catalog import find
    from jdl.train.experiment import rebuild

    set_up_jax()
    print(cost(rebuild(find(run, root)), build_mesh(mesh, devices)))
