"""A small language model whose rows go on where they ended, with dropout and a ragged table."""

from dataclasses import dataclass

import numpy as np
from kitchen_sink import log_ids

import jdl
from jdl.models.rnn import LSTM, RNN


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 60
    batch: int = 6


def run(c: Config) -> jdl.Run:
    text = np.random.default_rng(0).integers(0, 20, 6 * 9 * 16 + 5).astype(np.int32)
    rows = jdl.data.arrays(x=np.lib.stride_tricks.sliding_window_view(text, 17)[::16])
    model = RNN(
        20,
        (16,),
        LSTM,
        return_sequences=True,
        vocab_size=20,
        embedding_width=8,
        dropout=0.2,
        stateful=True,
    )
    learner = jdl.descent(log_ids(jdl.objectives.next_token(model)), jdl.optim.adamw(1e-2))
    return jdl.Run(
        c, learner, rows.contiguous_batches(c.batch), test=rows.contiguous_batches(c.batch)
    )


if __name__ == "__main__":
    jdl.main(run, Config)
