"""Roles of names in Python's standard library by a bidirectional LSTM and a CRF: not measured yet.

scripts/train experiments/stdlib_tags.py
jdl predict stdlib_tags FILE.py
"""

from dataclasses import dataclass
from functools import partial

import jdl
from jdl.models.rnn import RNN


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1_200
    batch: int = 64
    lr: float = 5e-3
    crf: bool = True
    """Whether tags depend on their neighbors; if not, each is chosen alone."""
    punctuation: bool = True
    """Whether brackets, dots, commas and colons are shown; without them it is harder."""


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.stdlib_tags(c.punctuation)
    tags, words = train.labels, len(train.vocabulary)
    options = {"bidirectional": True, "return_sequences": True, "dropout": 0.3}
    model = RNN(len(tags), (96,), vocab_size=words, embedding_width=64, **options)
    if c.crf:
        objective = jdl.objectives.crf(model, tags)
    else:
        spans = partial(jdl.metrics.span_f1, tags=tags)
        objective = jdl.objectives.with_metrics(jdl.objectives.classify(model), span=spans)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    data = train.shuffled(c.batch, c.seed), valid.batches(256), test.batches(256)
    return jdl.Run(c, learner, *data, best="max span/f1", labels=tags)


if __name__ == "__main__":
    jdl.main(run, Config)
