"""A GPT of Python's source continued on verses: 2.138 bits per byte; LoRA 2.390, scratch 3.175.

Seed 0, 200 steps, 24 CPU-s of an AMD EPYC (LoRA 32); as it is, the GPT has 3.640.
jdl data fetch quran
scripts/train experiments/quran_gpt.py --begin run:python  # LoRA: --lora
The GPT, 97 CPU-s: stdlib_gpt.py --name python --width 64 --depth 2 --batch 16 --steps 1000
"""

from dataclasses import dataclass

import jdl
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 200
    lr: float = 1e-2
    begin: str = ""  # a run of stdlib_gpt.py; afresh without
    lora: bool = False


def run(c: Config) -> jdl.Run:
    tokenizer, blocks = jdl.data.ByteTokenizer(), TransformerConfig(64, 2, heads=2, max_length=128)
    parts = ([english for english, _ in pairs] for pairs in jdl.data.translation("en"))
    train, valid, test = (jdl.data.pack(verses, tokenizer, length=128) for verses in parts)
    model = GPT(tokenizer.vocab_size, blocks)
    if c.begin:
        model = jdl.pretrained(model, jdl.weights.load(c.begin))
    objective = jdl.objectives.next_token(model, test.bytes_per_token)
    if c.lora:
        objective = jdl.lora(objective, "attention|feed_forward", rank=8)
    learner = jdl.descent(objective, jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps)))
    data = train.shuffled(16, c.seed), valid.batches(64), test.batches(64)
    return jdl.Run(c, learner, *data, tokenizer=tokenizer)


if __name__ == "__main__":
    jdl.main(run, Config)
