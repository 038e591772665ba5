"""Electricity demand a day ahead by an LSTM: mean absolute error 0.266 GW (seed 0).

Half-hourly demand of Victoria, on the last 15% of 2014; repeating the week before has 0.323 GW.

jdl data fetch elecdemand
scripts/train experiments/electricity_lstm.py
"""

from dataclasses import dataclass

import jdl
from jdl.models.rnn import RNN


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1_500
    batch: int = 128
    lr: float = 3e-3
    context: int = 96


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.electricity(c.context)
    model = RNN(48, (128,), dropout=0.2)
    objective = jdl.objectives.forecast(model, scale=train.std)
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps))
    learner = jdl.ema(jdl.descent(objective, optimizer), 0.99)
    data = train.shuffled(c.batch, c.seed), valid.batches(500), test.batches(500)
    return jdl.Run(c, learner, *data, best="min mae")


if __name__ == "__main__":
    jdl.main(run, Config)
