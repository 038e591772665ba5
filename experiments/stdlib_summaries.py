"""Summaries of Python functions, by a T5 that copies: ROUGE-L 0.198, signature lines 0.181.

They name what a function is about, and are seldom good sentences: 4,800 pairs are few. Nothing was
tuned. Seed 0, 21 min on two busy cores of an AMD EPYC; baselines: scripts/bench summaries.
scripts/train experiments/stdlib_summaries.py
"""

from dataclasses import dataclass

import jdl
from jdl.models.t5 import T5
from jdl.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 1_500
    batch: int = 32
    lr: float = 1e-3
    width: int = 128
    dropout: float = 0.2
    copying: bool = True


def run(c: Config) -> jdl.Run:
    train, valid, test = jdl.data.stdlib_summaries()
    tokenizer = train.tokenizer
    transformer = TransformerConfig(c.width, depth=2, dropout=c.dropout, max_length=64)
    model = T5(tokenizer.vocab_size, transformer, copying=c.copying)
    objective = jdl.objectives.seq2seq(model, tokenizer.eos_id, smoothing=0.1, max_new_tokens=24)
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps), weight_decay=0.1)
    data = train.shuffled(c.batch, c.seed), valid.batches(64), test.batches(64)
    score = jdl.objectives.text_scores(
        objective, data[-1], tokenizer, rouge_l=lambda *texts: jdl.metrics.rouge(*texts)["rougeL"]
    )
    return jdl.Run(c, jdl.descent(objective, optimizer), *data, tokenizer=tokenizer, score=score)


if __name__ == "__main__":
    jdl.main(run, Config)
