"""A tiny language model that was trained for two steps and exported, with and without a chat."""

from dataclasses import replace

import numpy as np
import optax
from model_table import ONE

import jdl
from jdl.models.gpt import GPT

MAX_LENGTH = 48
SAID = [("hello", "good day"), ("what is it", "a test, é字"), ("and now", "nothing")]


def exported_language_model(root, name="words", chat=False):
    """The folder of an exported model, and its run restored."""
    tokenizer, config = jdl.data.ByteTokenizer(), jdl.Config(name=name, steps=2)
    if chat:
        data = jdl.data.dialogues(
            [
                [{"role": "user", "content": a}, {"role": "assistant", "content": b}]
                for a, b in SAID
            ],
            max_length=MAX_LENGTH,
        )
        size = data.vocab_size
    else:
        data = jdl.data.arrays(x=np.tile(np.arange(97, 106), (4, 1)))
        size = tokenizer.vocab_size
    model = GPT(size, replace(ONE, max_length=MAX_LENGTH))
    learner = jdl.descent(jdl.objectives.next_token(model), optax.sgd(0.5))
    run = jdl.Run(config, learner, data.shuffled(3, 0), test=data.batches(3), tokenizer=tokenizer)
    folder = jdl.fit(run, jdl.Options(root=root / "runs", quiet=True)).folder
    return jdl.export.export(folder, root / name, run=run), jdl.restore(folder, run)
