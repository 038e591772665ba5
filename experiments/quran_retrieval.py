"""A verse in English finds its translation to French among 305: recall@1 ?.
"""

from dataclasses import dataclass

import jdl
from jdl.models.bert import BERT
from jdl.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 400
    batch: int = 256
    lr: float = 2e-3
    length: int = 64
    vocabulary: int = 4_000
    width: int = 64
    depth: int = 1
    dropout: float = 0.1


def run(c: Config) -> jdl.Run:
    parts = jdl.data.translation("en", "fr")
    tokenizer = jdl.data.train_bpe([text for pair in parts[0] for text in pair], c.vocabulary)
    train, valid, test = (jdl.data.text_pairs(p, tokenizer, c.length, truncate=True) for p in parts)
    sizes = TransformerConfig(c.width, c.depth, dropout=c.dropout, max_length=c.length)
    tower = BERT(tokenizer.vocab_size, sizes, outputs=c.width)
    objective = jdl.objectives.contrastive(tower)
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps), weight_decay=0.1)
    data = train.shuffled(c.batch, c.seed), valid.batches(128), test.batches(128)
    learner = jdl.descent(objective, optimizer)
    return jdl.Run(c, learner, *data, best="max recall_at_1", tokenizer=tokenizer)


if __name__ == "__main__":
    jdl.main(run, Config)
