"""A seq2seq experiment in little: words and themselves backwards."""

from dataclasses import dataclass

import optax

import jdl
from jdl.models.t5 import T5
from jdl.models.transformer import TransformerConfig

WORDS = [f"{a}{b}{c}" for a in "abcd" for b in "efg" for c in "hij"]


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 100


def exact(written, right) -> float:
    """The share of texts that are right to the letter."""
    return sum(a == b for a, b in zip(written, right, strict=True)) / len(right)


def run(c: Config) -> jdl.Run:
    tokenizer = jdl.data.ByteTokenizer()
    pairs = jdl.data.text_pairs([(word, word[::-1]) for word in WORDS], tokenizer, 6)
    objective = jdl.objectives.seq2seq(
        T5(tokenizer.vocab_size, TransformerConfig(width=32, depth=1, heads=2, max_length=6)),
        tokenizer.eos_id,
    )
    test = pairs.batches(10)
    learner = jdl.descent(objective, optax.adam(1e-2))
    score = jdl.objectives.text_scores(objective, test, tokenizer, exact=exact)
    return jdl.Run(
        c, learner, pairs.shuffled(12, c.seed), test=test, tokenizer=tokenizer, score=score
    )


if __name__ == "__main__":
    jdl.main(run, Config)
