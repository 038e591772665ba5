"""A chat model that answers questions about function signatures: not measured yet.

scripts/train experiments/stdlib_chat.py
jdl chat stdlib_chat
"""

from dataclasses import dataclass

import jdl
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 2_500
    batch: int = 64
    lr: float = 2e-3
    width: int = 128
    depth: int = 3
    vocabulary: int = 1_024


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.stdlib_dialogues(c.vocabulary)
    blocks = TransformerConfig(c.width, c.depth, heads=c.width // 32)
    model = GPT(train.vocab_size, blocks)
    objective = jdl.objectives.next_token(model, test.bytes_per_token)
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps), weight_decay=0.1)
    learner = jdl.descent(objective, optimizer)
    batches = train.shuffled(c.batch, c.seed)
    parts = batches, valid.batches(64), test.batches(64)
    return jdl.Run(c, learner, *parts, best="min loss", tokenizer=train.tokenizer)


if __name__ == "__main__":
    jdl.main(run, Config)
