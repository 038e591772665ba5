"""Verses by place of revelation, from the weights of MiniLM: frozen, LoRA, in full, or none.

jdl data fetch quran; jdl data fetch minilm
scripts/train experiments/quran_minilm.py --way lora --labels 1000
"""

from dataclasses import dataclass
from typing import Literal

import jdl


@dataclass(frozen=True)
class Config(jdl.Config):
    way: Literal["frozen", "lora", "full", "scratch"] = "lora"
    labels: int = 1_000  # of the verses to train on
    steps: int = 150
    batch: int = 16
    length: int = 64
    rank: int = 8


RATES = {"frozen": 1e-2, "lora": 1e-3, "full": 1e-4, "scratch": 3e-4}


def run(c: Config) -> jdl.Run:
    folder = jdl.data.dataset_folder("minilm")
    splits = jdl.data.quran_places()  # no chapter is in two of them
    train, valid, test = jdl.data.labelled_text(*splits, tokenizer=folder, max_length=c.length)
    (train,) = train.split(c.labels / len(train), seed=c.seed)
    model = jdl.weights.from_pretrained(folder, outputs=len(train.labels))
    objective = jdl.objectives.classify(model.model if c.way == "scratch" else model)
    if c.way == "frozen":
        objective = jdl.freeze(objective, "tokens|stack")
    if c.way == "lora":
        objective = jdl.lora(objective, "query|value", c.rank, train="head")
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(RATES[c.way], c.steps, 0.1))
    data = train.shuffled(c.batch, c.seed), valid.batches(64), test.batches(64)
    return jdl.Run(c, jdl.descent(objective, optimizer), *data, labels=train.labels)


if __name__ == "__main__":
    jdl.main(run, Config)
