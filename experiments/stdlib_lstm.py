"""An LSTM on the source of Python's standard library: 1.677 bits per byte on held-out files.

Seed 0, source of Python 3.11.7, an NVIDIA H100; on a CPU 20 CPU-minutes. Its state is carried from
batch to batch, in evaluation too. 0.83 million parameters.

scripts/train experiments/stdlib_lstm.py
jdl sample stdlib_lstm --prompt "def main("
"""

from dataclasses import dataclass

import jdl
from jdl.models.rnn import RNN


@dataclass(frozen=True)
class Config(jdl.Config):
    steps: int = 3_000
    batch: int = 32
    length: int = 128
    lr: float = 3e-3
    hidden: tuple[int, ...] = (360,)
    text: str = ""
    """File of the corpus; by default the standard library of this Python."""


def run(c: Config) -> jdl.Run:
    tokenizer = jdl.data.ByteTokenizer()
    size = tokenizer.vocab_size
    train, valid, test = jdl.data.text(c.text, tokenizer, c.length)
    model = RNN(size, c.hidden, vocab_size=size, return_sequences=True, stateful=True)
    objective = jdl.objectives.next_token(model, test.bytes_per_token)
    optimizer = jdl.optim.adamw(jdl.optim.warmup_cosine(c.lr, c.steps), weight_decay=0.1)
    learner = jdl.descent(objective, optimizer)
    parts = (part.contiguous_batches(c.batch) for part in (train, valid, test))
    return jdl.Run(c, learner, *parts, tokenizer=tokenizer)


if __name__ == "__main__":
    jdl.main(run, Config)
