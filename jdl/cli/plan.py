"""`jdl plan`: will a training fit on accelerators that are not here, and how long will it take?"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdl.errors import Error


@dataclass(frozen=True)
class PlanOptions:
    """Options of `jdl plan`."""

    topology: str
    """What to plan for: v5e:4x8, v5p:2x2x4, v6e:8x8 (TPUs), a100:8, h100:8, h200:8, b200:8 (GPUs),
    or cpu:8 (simulated)."""
    mesh: str = ""
    """Mesh over all its chips, e.g. data=16,fsdp=16; by default all are along data."""
    search: bool = False
    """Try all meshes of the topology, and rank them; without --mesh."""
    quick: bool = False
    """Compile for TPUs in half the time: memory is approximate, its traffic and time too large."""
    json: Path | None = None
    """File to write the plan to, as JSON."""
    keep: Path | None = None
    """Folder for the compiled programs, as text (HLO)."""
    picture: Path | None = None
    """Picture (.png) of memory by part to write; by default plan/NAME-TOPOLOGY.png."""
    watts: float | None = None
    """Watts of a chip, for the energy; by default what is printed with it."""


def plan(arguments: list[str]) -> None:
    """Plans the experiment in a script; the other arguments are fields of its config."""
    if not arguments or arguments[0].startswith("-"):
        raise Error(
            "jdl plan needs the script of an experiment first: "
            "jdl plan SCRIPT.py --topology v5e:4x8 [--mesh data=8,fsdp=4] [--field value ...]."
        )
    from jdl.cli.startup import set_up_jax
    from jdl.plan.chips import parse_topology
    from jdl.plan.devices import start_jax_for
    from jdl.train import experiment
    from jdl.train.command_line import parse

    script, flags = Path(arguments[0]), arguments[1:]
    set_up_jax()
    module, run, config = experiment.load(script)
    c, options = parse(config, flags, f"jdl plan {script}", module.__doc__ or "", PlanOptions)
    topology = parse_topology(options.topology)
    _check(options)
    start_jax_for(topology)
    prepared = experiment.prepare(run, c, flags, script)
    plans = (
        _searched(prepared, run, options) if options.search else _planned(prepared, run, options)
    )
    _write(plans, options)


def _check(options: PlanOptions) -> None:
    """Raises `Error` for options that contradict, and where the results cannot be written."""
    if options.search and options.mesh:
        raise Error("--search tries all meshes: drop --mesh, or --search.")
    if options.json and options.json.is_dir():
        raise Error(f"--json {options.json} is a folder: name a file.")
    if options.picture and (options.picture.suffix != ".png" or options.picture.is_dir()):
        raise Error(f"--picture {options.picture} must be a file whose name ends in .png.")
    if options.keep and options.keep.exists() and not options.keep.is_dir():
        raise Error(f"--keep {options.keep} is a file: name a folder.")


def _planned(prepared: Any, run: Any, options: PlanOptions) -> list[Any]:
    """The plan, printed; and where it does not fit the smallest change with which it does."""
    from jdl.plan.run_plan import plan as plan_run
    from jdl.plan.trials import smallest_change

    given = (options.watts, options.quick)
    found = plan_run(prepared, options.topology, options.mesh, *given)
    print(found)
    if found.fits:
        return [found]
    print("\nTrying what would fit ...", flush=True)
    changed = smallest_change(prepared, options.topology, options.mesh, run, *given)
    if changed is None:
        print("Nothing that was tried fits: take more chips, or a smaller model.")
        return [found]
    print(f"The smallest change that fits: {changed.label}\n\n{changed}")
    return [found, changed]


def _searched(prepared: Any, run: Any, options: PlanOptions) -> list[Any]:
    from jdl.plan.run_plan import NOTE
    from jdl.plan.trials import search, table

    print(f"{prepared.config.name} on {options.topology}: each mesh is compiled", flush=True)
    plans = search(
        prepared,
        options.topology,
        run,
        lambda p: print(f"  {p.label}", flush=True),
        options.watts,
        options.quick,
    )
    print(f"\n{table(plans)}\n\n{NOTE}")
    return plans


def _write(plans: list[Any], options: PlanOptions) -> None:
    from jdl.plan.trials import draw_plans

    where = f"{plans[0].name}-{options.topology.replace(':', '-')}"
    picture = options.picture or Path("plan", f"{where}.png")
    draw_plans(plans, picture)
    print(f"\n{picture}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([one.to_json() for one in plans], indent=1) + "\n")
        print(options.json)
    if not options.keep:
        return
    options.keep.mkdir(parents=True, exist_ok=True)
    for one in plans:
        path = options.keep / f"{where}-{one.label.replace(', ', '-').replace(' ', '')}.txt"
        path.write_text(one.text)
        print(path)
