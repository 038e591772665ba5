"""Verses, by a GPT of Python's standard library: ? bits per byte.

"""

from dataclasses import dataclass
from typing import Literal

import jdl
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 200
    batch: int = 16
    lr: float = 3e-3
    begin: str = ""  # a run of stdlib_gpt.py; by default random weights
    tune: Literal["full", "lora"] = "full"
    width: int = 64
    depth: int = 2


def run(c: Config) -> jdl.Run:
    tokenizer, length = jdl.data.ByteTokenizer(), 128
    splits = ([verse for verse, _ in pairs] for pairs in jdl.data.translation("en", "fr"))
    train, valid, test = (jdl.data.pack(verses, tokenizer, length) for verses in splits)
    blocks = TransformerConfig(c.width, c.depth, heads=c.width // 32, max_length=length)
    model = GPT(tokenizer.vocab_size, blocks)
    if c.begin:
        model = jdl.pretrained(model, jdl.weights.load(c.begin))
    objective = jdl.objectives.next_token(model, test.bytes_per_token)
    if c.tune == "lora":
        objective = jdl.lora(objective, "attention|feed_forward")
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps))
    learner = jdl.descent(objective, optimizer)
    data = train.shuffled(c.batch, c.seed), valid.batches(64), test.batches(64)
    return jdl.Run(c, learner, *data, tokenizer=tokenizer)


if __name__ == "__main__":
    jdl.main(run, Config)
