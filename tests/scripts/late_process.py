"""A training whose second process traces its step longer, or reads slowly; its disk may wait."""

import time
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax

import jdl
from jdl.store import manifest


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 10
    trace_seconds: float = 0
    row_seconds: float = 0
    disk_waits_for: str = ""  # a file: no manifest of a checkpoint is written before it exists


class Late(nn.Module):
    seconds: float

    @nn.compact
    def __call__(self, x, train):
        if train and jax.process_index() == 1:
            time.sleep(self.seconds)
        return nn.Dense(10)(x)


@dataclass(frozen=True)
class Rows:
    seconds: float

    def __len__(self):
        return 64

    def __getitem__(self, i):
        if jax.process_index() == 1:
            time.sleep(self.seconds)
        return np.full(8, i, np.float32), i % 10


def hold_manifests(until):
    write = manifest.write_manifest

    def write_later(checkpoint):
        while not until.exists():
            time.sleep(0.01)
        write(checkpoint)

    manifest.write_manifest = write_later


def run(c: Config) -> jdl.Run:
    if c.disk_waits_for:
        hold_manifests(Path(c.disk_waits_for))
    data = jdl.data.indexed(
        Rows(c.row_seconds), labels=list("0123456789"), stream=True, fingerprint="rows"
    )
    learner = jdl.descent(jdl.objectives.classify(Late(c.trace_seconds)), optax.adam(1e-3))
    return jdl.Run(c, learner, data.shuffled(8, c.seed), test=data.batches(8))


if __name__ == "__main__":
    jdl.main(run, Config)
