"""English words to phonemes by a bidirectional LSTM and CTC: phoneme error rate 7.7% (seed 0).

The CMU Pronouncing Dictionary without stress; on an NVIDIA H100, on a CPU 14 CPU-minutes.

jdl data fetch cmudict
scripts/train experiments/pronounce_ctc.py
"""

from dataclasses import dataclass

import jdl
from jdl.models.rnn import RNN


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 4_000
    batch: int = 128
    lr: float = 3e-3
    frames: int = 2
    """Phonemes that a letter may stand for."""


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.pronunciations(frames=c.frames)
    outputs = c.frames * len(train.labels)
    options = {"bidirectional": True, "return_sequences": True, "dropout": 0.1}
    model = RNN(outputs, (128, 128), vocab_size=28, embedding_width=64, **options)
    objective = jdl.objectives.ctc(model, c.frames)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    data = train.shuffled(c.batch, c.seed), valid.batches(500), test.batches(500)
    return jdl.Run(c, learner, *data, best="min error_rate", labels=train.labels)


if __name__ == "__main__":
    jdl.main(run, Config)
