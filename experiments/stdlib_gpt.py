"""A GPT on the source of Python's standard library: 1.467 bits per byte on held-out files.

Seed 0, Python 3.11.7, an H100 (a CPU: 75 min). A 5-gram model: 1.748 (`scripts/bench ngram`).

scripts/train experiments/stdlib_gpt.py
jdl sample stdlib_gpt --prompt "def main("
"""

from dataclasses import dataclass

import jdl
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 3_000
    batch: int = 32
    length: int = 128
    lr: float = 3e-3
    width: int = 128
    depth: int = 4
    text: str = ""
    """File of the corpus; by default the standard library of this Python."""


def run(c: Config) -> jdl.Run:
    tokenizer = jdl.data.ByteTokenizer()
    train, valid, test = jdl.data.text(c.text, tokenizer, c.length)
    blocks = TransformerConfig(c.width, c.depth, heads=c.width // 32, max_length=c.length)
    objective = jdl.objectives.next_token(GPT(tokenizer.vocab_size, blocks), test.bytes_per_token)
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps), weight_decay=0.1)
    learner = jdl.descent(objective, optimizer)
    batches = train.shuffled(c.batch, c.seed)
    return jdl.Run(c, learner, batches, valid.batches(64), test.batches(64), tokenizer=tokenizer)


if __name__ == "__main__":
    jdl.main(run, Config)
