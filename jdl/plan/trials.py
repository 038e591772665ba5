"""Plans by trial: all meshes of a topology in order, and the smallest change that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax

from jdl.config import Config
from jdl.figures.memory import draw_memory
from jdl.learners.descent import Descent
from jdl.objectives.pretrained_model import leave_fresh
from jdl.parallel.mesh import mesh_over, mesh_shape, shardings
from jdl.plan.chips import parse_topology
from jdl.plan.devices import mesh_text
from jdl.plan.run_plan import Plan, plan
from jdl.plan.units import amount, short
from jdl.run import Run
from jdl.types import Error, Learner

Make = Callable[[Any], Run]
"""An experiment's function `run`, for plans of other configs."""
MOST_MODEL = 8  # devices along "model" that are tried
MICRO_BATCHES = (2, 4, 8, 16)
REMAT = (False, True, "dots_with_no_batch_dims_saveable")


@dataclass(frozen=True)
class Change:
    """A change of a plan: the run that it makes, on a mesh, and what it is in words."""

    run: Run
    mesh: str
    text: str = ""

    def plan(self, topology: str, watts: float | None = None, quick: bool = False) -> Plan:
        """The plan with this change."""
        return replace(plan(self.run, topology, self.mesh, watts, quick), change=self.text)


def search(
    run: Run,
    topology: str,
    make: Make | None = None,
    tried: Callable[[Plan], None] = lambda p: None,
    watts: float | None = None,
    quick: bool = False,
) -> list[Plan]:
    """Plans for every mesh of a topology, the best first: those that fit, then by their time.

    With `make`, and where the config has a field `remat`, also for every policy of gradient
    checkpointing. `tried` is called with each plan as it is made.
    """
    plans = []
    for mesh in meshes(run, topology):
        for change in [Change(run, mesh), *_remat(run, mesh, make)]:
            plans.append(change.plan(topology, watts, quick))
            tried(plans[-1])
    return sorted(plans, key=_rank)


def _rank(one: Plan) -> tuple[bool, float, int]:
    seconds = one.time.seconds if one.time else float("inf")
    return (not one.fits, round(seconds, 9), one.memory.total)


def meshes(run: Run, topology: str) -> list[str]:
    """The meshes of all chips that divide the batch, "model" only where it divides the model."""
    chips, found = parse_topology(topology).chips, []
    for model in _divisors(chips):
        if model > 1 and (model > MOST_MODEL or not _divides_model(run, model)):
            continue
        if run.train.batch_size % (chips // model):
            continue
        for fsdp in _divisors(chips // model):
            found.append(mesh_text({"data": chips // model // fsdp, "fsdp": fsdp, "model": model}))
    if not found:
        raise Error(
            f"A batch of {run.train.batch_size} rows cannot be divided among {chips} chips: choose "
            f"a multiple of {chips}, or fewer chips."
        )
    return found


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]


def _divides_model(run: Run, model: int) -> bool:
    """Whether "model" would cut any parameter."""
    mesh = mesh_over([jax.devices()[0]] * model, {"model": model})
    with leave_fresh():
        key = jax.eval_shape(jax.random.key, 0)
        params = jax.eval_shape(run.learner.init, key, run.train.spec).params
    cut = jax.tree.leaves(shardings(mesh, {"params": params}))
    return any("model" in sharding.spec for sharding in cut)


def smallest_change(
    run: Run,
    topology: str,
    mesh: str,
    make: Make | None = None,
    watts: float | None = None,
    quick: bool = False,
) -> Plan | None:
    """The first plan that fits, by changes that cost more and more; None if none does.

    They are tried in this order: parameters and optimizer state cut among more chips (fsdp up),
    gradient checkpointing where the config has a field `remat`, gradient accumulation
    (micro-batches), and at last a smaller batch, which is another training.
    """
    for change in changes(run, topology, mesh, make):
        found = change.plan(topology, watts, quick)
        if found.fits:
            return found
    return None


def changes(run: Run, topology: str, mesh: str, make: Make | None = None) -> Iterator[Change]:
    """What `smallest_change` tries."""
    sizes = mesh_shape(mesh) or {"data": parse_topology(topology).chips}
    while sizes.get("data", 1) % 2 == 0:
        sizes = {**sizes, "data": sizes["data"] // 2, "fsdp": 2 * sizes.get("fsdp", 1)}
        mesh = mesh_text(sizes)
        yield Change(run, mesh)
    yield from _remat(run, mesh, make)
    parts = sizes.get("data", 1) * sizes.get("fsdp", 1)
    for count in MICRO_BATCHES:
        learner = with_micro_batches(run.learner, count)
        if learner and run.train.batch_size % (parts * count) == 0:
            yield Change(replace(run, learner=learner), mesh, f"micro_batches={count}")
    batch = getattr(run.config, "batch", None)
    while make and isinstance(batch, int) and batch % 2 == 0 and batch // 2 % parts == 0:
        batch //= 2
        yield Change(make(replace(run.config, batch=batch)), mesh, f"--batch {batch}")


def _remat(run: Run, mesh: str, make: Make | None) -> Iterator[Change]:
    """The other policies of gradient checkpointing that the config's field allows."""
    names = (
        {field.name for field in fields(run.config)} if isinstance(run.config, Config) else set()
    )
    if not make or "remat" not in names:
        return
    now = run.config.remat
    allowed = REMAT if isinstance(now, str) else REMAT[:2]
    for policy in allowed:
        if policy != now:
            yield Change(make(replace(run.config, remat=policy)), mesh, f"--remat {policy}")


def with_micro_batches(learner: Learner, count: int) -> Learner | None:
    """The learner with gradient accumulation over so many parts; None for one that has none."""
    if isinstance(learner, Descent):
        return replace(learner, micro_batches=learner.micro_batches * count)
    inner = getattr(learner, "learner", None)
    changed = with_micro_batches(inner, count) if inner is not None else None
    return replace(learner, learner=changed) if changed else None  # type: ignore[type-var]


def table(plans: list[Plan]) -> str:
    """Ranked plans as a table."""
    width = max(len(one.label) for one in plans)
    lines = [f"{'mesh':<{width}}  {'a chip':>9}  {'step':>8}  {'bound by':<12}  {'sent':>8}"]
    for one in plans:
        time = short(one.time.seconds) if one.time else "-"
        fits = "" if one.fits else "  does not fit"
        bound = one.time.bound if one.time else "-"
        sent = amount(one.wire, "B") if one.text else "-"
        lines.append(
            f"{one.label:<{width}}  {amount(one.memory.total, 'B'):>9}  {time:>8}  {bound:<12}  "
            f"{sent:>8}{fits}"
        )
    return "\n".join(lines)


def draw_plans(plans: list[Plan], path: Path) -> None:
    """Draws the memory of a chip by part for each plan as a PNG."""
    parts = {one.label: one.memory.parts() for one in plans}
    title = f"{plans[0].name} on {plans[0].topology}"
    draw_memory(title, parts, plans[0].capacity, path)
