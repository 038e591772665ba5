"""Word vectors of Python's standard library, by skip-gram: test loss 1.848 nats a pair (seed 0).

Near to encode is decode, to min max, to left right; to reader - read + write, writer. In words a
CPU second its rate is 0.90 of gensim's (`scripts/bench words 4 2`). 1.5 CPU-minutes of an AMD
EPYC. The learning rate and the steps were chosen on validation rows.

scripts/train experiments/stdlib_words.py
"""

from dataclasses import dataclass

import jdl
from jdl.models.word_vectors import WordVectors


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 500
    batch: int = 512
    lr: float = 1e-2
    width: int = 100


def run(c: Config) -> jdl.Run:
    words = jdl.data.word_windows(jdl.data.stdlib_words(), min_count=10)
    train, valid, test = words.split(0.94, 0.03, 0.03)
    model = WordVectors(len(words.labels), c.width)
    objective = jdl.objectives.skip_gram(model, words.counts)
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps), weight_decay=0.0)
    learner = jdl.descent(objective, optimizer)
    data = train.shuffled(c.batch, c.seed), valid.batches(512), test.batches(512)
    return jdl.Run(c, learner, *data, labels=words.labels)


if __name__ == "__main__":
    jdl.main(run, Config)
