"""Adapters (LoRA) on a backbone in 8 bits, taught by a model in 8 bits."""

from dataclasses import dataclass

import jax
import numpy as np
import optax

import jdl
from jdl.models.cnn import CNN
from jdl.objectives.pretrained_model import Weights
from jdl.weights.load import arrays_by_path

MODEL = CNN(3, blocks=((4, 1),), dense=(6,))
BATCH = {
    "x": np.asarray(jax.random.normal(jax.random.key(9), (6, 8, 8, 1))),
    "y": np.arange(6, dtype=np.int32) % 3,
}


@dataclass(frozen=True)
class Config(jdl.Config):
    name: str = "adapted"
    steps: int = 3
    elastic: int = 2


def run(c: Config) -> jdl.Run:
    arrays = arrays_by_path(MODEL.init(jax.random.key(1), BATCH["x"]))
    teacher = jdl.pretrained(MODEL, Weights(lambda: (arrays, "0" * 64, "given")))
    taught = jdl.distil(jdl.objectives.classify(MODEL), teacher)
    adapted = jdl.lora(taught, "Dense", rank=2)
    objective = jdl.quantize(adapted, "^(lora/base|teacher/params)/.*kernel")
    learner = jdl.descent(objective, optax.adam(1e-2))
    return jdl.Run(c, learner, jdl.data.arrays(**BATCH).shuffled(4, 0))
