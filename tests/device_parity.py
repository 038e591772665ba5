"""How far divided training is from that of one device, over 50 steps of every family.

    JAX_NUM_CPU_DEVICES=8 PJRT_NPROC=8 python tests/device_parity.py [--families mlp gpt] [--ways
    data=8 pmap=4]

A line a family and way: how far losses, and parameters with what they carry, are from those of one
device, relative to these (Euclidean norms); or, for elastic ways, a digest of losses, parameters
and AdamW's state, to the bit. Of 20 examples in batches of 16 every second batch has 4 real rows:
on 8 devices most see padding alone.
"""

import argparse
import json
from dataclasses import dataclass
from hashlib import sha256

import jax
import numpy as np
import optax
from model_table import TABLE
from unsupervised_table import UNSUPERVISED

import jdl
from jdl.learners import jit_learner, with_data
from jdl.models.mlp import MLP
from jdl.parallel import (
    build_mesh,
    elastic,
    pmap_learner,
    pmap_mesh,
    processes,
    shard_data,
    shard_learner,
)
from jdl.parallel.multihost import to_local
from jdl.store.checkpoints import leaf_digests
from jdl.train import distributed

STEPS, BATCH, SHARDS = 50, 16, 8
ROWS = {row.name: row for row in TABLE + UNSUPERVISED}
FAMILIES = (
    "mlp",
    "mlp-dropout",
    "cnn-norm",
    "resnet",
    "lstm",
    "lstm-crf",
    "gpt",
    "t5",
    "gan",
    "vae",
    "clusters",
    "triplet",
    "gcn",
    "plain-linen",
    "plain-nnx",
    "pair",
    "adapted",
)
STEEP = {  # rates below 1e-2, at which rounding would grow step by step
    "bert-spans": 1e-3,  # tables that begin at 0.02
    "gpt": 1e-3,
    "gpt-balanced": 1e-3,
    "gpt-experts": 1e-3,
    "gpt-local": 1e-3,
    "gpt-scan": 1e-3,
    "t5": 1e-3,
}
NORMALISED = (
    "cnn-norm",
    "resnet",
    "gan",
    "clusters",
    "triplet",
)  # by statistics of the part of a batch that is seen at once
DRAWN = ("mlp-dropout", "vae")  # for each part of a batch by a key of its own
WAYS = ("data=2", "data=4", "data=8", "fsdp=8", "data=4,model=2", "pmap=4", "micro=4")
ELASTIC = ("elastic=1", "elastic=2", "elastic=4", "elastic=8")


@dataclass(frozen=True)
class Case:
    """A family: its objective, its data and its optimizers."""

    name: str

    @property
    def objective(self):
        if self.name == "mlp-dropout":
            return jdl.objectives.classify(MLP(5, hidden=(32, 16), dropout=0.3))
        row = ROWS[self.name]
        return row.objective(row.model)

    @property
    def data(self):
        row = ROWS.get(self.name, ROWS["mlp"])
        columns = {name: column for name, column in row.batch().items() if name != "mask"}
        return jdl.data.arrays(
            **{name: np.concatenate([c, c[:8]]) for name, c in columns.items()}
        ).shuffled(BATCH, 0)

    def learner(self, adam=False, micro_batches=1):
        one = optax.adamw(1e-3) if adam else optax.sgd(STEEP.get(self.name, 1e-2))
        if self.name == "gan":
            other = optax.adam(2e-3) if adam else optax.sgd(5e-3, momentum=0.5)
            one = jdl.optim.per_module(generator=one, discriminator=other)
        learner = jdl.descent(
            self.objective, optax.chain(optax.clip_by_global_norm(1.0), one), micro_batches
        )
        if self.name == "clusters":
            return jdl.k_means_init(learner, STEPS // 2, self.data[0])
        return ROWS[self.name].wrap(learner) if self.name in ROWS else learner


def trained(case: Case, way: str) -> tuple[list[float], object]:
    """Losses and state after the steps."""
    data, (kind, _, count) = case.data, way.partition("=")
    if kind == "elastic":
        run = elastic(case.learner(adam=True), data, SHARDS, jax.devices()[: int(count)])
    elif kind == "pmap":
        mesh = pmap_mesh(jax.devices()[: int(count)])
        data = shard_data(data, mesh)
        run = pmap_learner(case.learner(), data, mesh)
    elif kind in ("one", "micro"):
        run = jit_learner(with_data(case.learner(micro_batches=int(count or 1)), data))
    else:
        mesh = build_mesh(way)
        data = shard_data(data, mesh)
        run = jit_learner(shard_learner(with_data(case.learner(), data), mesh))
    state, losses = run.init(jax.random.key(0), data[0]), []
    for _, raw in zip(range(STEPS), data.read(), strict=False):
        state, metrics = run.step(state, raw)
        losses.append(float(metrics["loss"].value()))
    return losses, state


def result(case: Case, way: str) -> dict[str, object]:
    """What is to be compared, as JSON has it."""
    losses, state = trained(case, way)
    if way.startswith("elastic"):
        sums = leaf_digests((state.params, state.model_state, state.opt_state))
        return {"digest": sha256(json.dumps([losses, sums]).encode()).hexdigest()}
    leaves = [
        np.asarray(leaf) for leaf in jax.tree.leaves(to_local((state.params, state.model_state)))
    ]
    return {"losses": losses, "leaves": np.concatenate([leaf.ravel() for leaf in leaves]).tolist()}


def far(found: list[float], expected: list[float]) -> float:
    """The distance of two vectors, relative to the second."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def main() -> None:
    """Measures and prints, a line of JSON a family and way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--families", nargs="*", default=FAMILIES)
    parser.add_argument("--ways", nargs="*", default=WAYS + ELASTIC)
    for name, kind in (("coordinator", str), ("processes", int), ("process", int)):
        parser.add_argument(f"--{name}", type=kind)
    given = parser.parse_args()
    distributed.join(
        jdl.Options(coordinator=given.coordinator, processes=given.processes, process=given.process)
    )
    for name in given.families:
        case = Case(name)
        plain = [way for way in given.ways if not way.startswith("elastic")]
        if plain:  # of several processes each computes it for itself
            alone = result(case, "one")
        for way in given.ways:
            if way.startswith("micro") and name in (*NORMALISED, *DRAWN):
                continue
            found = result(case, way)
            if "digest" not in found:
                found = {name: far(found[name], alone[name]) for name in found}
            if processes.is_first():
                print(json.dumps({"family": name, "way": way, **found}), flush=True)


if __name__ == "__main__":
    main()
