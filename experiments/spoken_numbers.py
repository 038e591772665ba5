"""Numbers from 0 to 999, spoken by 16 voices never heard in training: word error rate 0.27%.

99.4% of 1,000 numbers are heard without an error. Without the list of words: 5.8%, best path: 7.5%.
Seed 0, espeak-ng 1.51, 15 minutes on 2 cores of an AMD EPYC that were busy with other work.

scripts/train experiments/spoken_numbers.py --seed 0
"""

from dataclasses import dataclass

import jdl
from jdl.models.deep_speech import DeepSpeech2


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 900
    batch: int = 32
    utterances: int = 6_000
    lr: float = 3e-3
    frames: int = 2
    """Letters that an output of the model, of 40 ms, may stand for."""
    beam: int = 8
    """Prefixes of the beam search."""


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.spoken_numbers(c.utterances)
    outputs = c.frames * len(train.labels)
    model = DeepSpeech2(outputs, 8_000, n_mels=32, channels=(8, 16, 32), hidden=(96,))
    objective = jdl.objectives.ctc(
        model, c.frames, labels=train.labels, beam=c.beam, words=jdl.data.NUMBER_WORDS
    )
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    data = train.shuffled(c.batch, c.seed), valid.batches(250), test.batches(250)
    return jdl.Run(c, learner, *data, best="min word_error_rate", labels=train.labels)


if __name__ == "__main__":
    jdl.main(run, Config)
