"""A tiny chat model, trained for two steps and exported, for the tests of the server."""

from dataclasses import replace

import optax
import pytest
from model_rows import ONE

import jdl
from jdl.models.gpt import GPT

MAX_LENGTH = 40
SAID = [("hello", "good day"), ("what is it", "a test, é字"), ("and now", "nothing")]


@pytest.fixture(scope="session")
def talk(tmp_path_factory):
    """The folder of an exported chat model, which continues texts too, and its run restored."""
    return export_talk(tmp_path_factory.mktemp("talk"))


def export_talk(root):
    """Trains it in a folder."""
    tokenizer, config = jdl.data.ByteTokenizer(), jdl.Config(name="talk", steps=2)
    dialogues = [
        [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
        for said, answer in SAID
    ]
    data = jdl.data.dialogues(dialogues, max_length=MAX_LENGTH)
    model = GPT(data.vocab_size, replace(ONE, max_length=MAX_LENGTH))
    learner = jdl.descent(jdl.objectives.next_token(model), optax.sgd(0.5))
    run = jdl.Run(config, learner, data.shuffled(3, 0), test=data.batches(3), tokenizer=tokenizer)
    folder = jdl.fit(run, jdl.Options(root=root / "runs", quiet=True)).folder
    return jdl.export.export(folder, root / "talk", run=run), jdl.restore(folder, run)
