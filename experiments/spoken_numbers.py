"""Numbers from 0 to 999, spoken by voices never heard in training: not measured yet.

scripts/train experiments/spoken_numbers.py --seed 0
"""

from dataclasses import dataclass

import jdl
from jdl.models.deep_speech import DeepSpeech2


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 2_000
    batch: int = 32
    utterances: int = 8_000
    lr: float = 3e-3
    beam: int = 8
    """Prefixes of the beam search."""


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.spoken_numbers(c.utterances)
    model = DeepSpeech2(len(train.labels), rate=8_000)
    objective = jdl.objectives.ctc(
        model, labels=train.labels, beam=c.beam, words=jdl.data.NUMBER_WORDS
    )
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    data = train.shuffled(c.batch, c.seed), valid.batches(250), test.batches(250)
    return jdl.Run(c, learner, *data, best="min word_error_rate", labels=train.labels)


if __name__ == "__main__":
    jdl.main(run, Config)
