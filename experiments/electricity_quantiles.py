"""Electricity demand, 24 hours ahead with 90% intervals: TODO.

jdl data fetch elecdemand
scripts/train experiments/electricity_quantiles.py --model patches
"""

from dataclasses import dataclass
from typing import Literal

import jdl
from jdl.models.nbeats import NBEATS
from jdl.models.patch_transformer import PatchTransformer
from jdl.models.tcn import TCN
from jdl.models.transformer import TransformerConfig

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 600
    batch: int = 64
    lr: float = 1e-3
    context: int = 336
    model: Literal["tcn", "nbeats", "patches"] = "patches"


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.electricity(c.context)
    size = train.source.horizon * len(LEVELS)
    config = TransformerConfig(width=64, depth=2, rotary=False, dropout=0.3)
    models = {
        "tcn": TCN(size, dropout=0.1),
        "nbeats": NBEATS(size, width=128, dropout=0.3),
        "patches": PatchTransformer(size, config=config),
    }
    objective = jdl.objectives.forecast_quantiles(
        models[c.model], LEVELS, train.std, train.naive_error
    )
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps))
    learner = jdl.ema(jdl.descent(objective, optimizer), 0.99)
    data = train.shuffled(c.batch, c.seed), valid.batches(500), test.batches(500)
    return jdl.Run(c, learner, *data, best="min pinball")


if __name__ == "__main__":
    jdl.main(run, Config)
