"""`jdl predict` of a tagger: the sentences of a file with their tags."""

import json

import jax
import jax.numpy as jnp
import pytest

import jdl
from jdl.inspect.predict import predict, to_csv, to_json
from jdl.inspect.restore import TrainedRun
from jdl.inspect.tagged import spans, to_color, to_columns
from jdl.models.rnn import RNN
from jdl.types import State

SENTENCES = [(["Ada", "King", "met", "Bob"], ["B-p", "I-p", "O", "B-p"]), (["a", "b"], ["O", "O"])]
TEXT = "Ada King met Bob\n\nmet\n"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The predictions of a model that has learnt nothing but which tag follows which."""
    train, test = jdl.data.tagged_text(SENTENCES, SENTENCES[:1], min_count=1)
    model = RNN(3, (2,), vocab_size=len(train.vocabulary), return_sequences=True)
    learner = jdl.descent(jdl.objectives.crf(model, train.labels), jdl.optim.adamw(1e-3))
    run = jdl.Run(
        jdl.Config(name="tags", steps=1),
        learner,
        train.shuffled(2, 0),
        test=test.batches(2),
        labels=train.labels,
    )
    state: State = learner.init(jax.random.key(0), run.train[0])
    between = jnp.asarray([[0.0, 9, 0], [0, 0, 9], [9, 0, 0]])
    chain = {"between": between, "start": jnp.asarray([9.0, 0, 0]), "end": jnp.zeros(3)}
    params = {"model": state.params["model"], "crf": chain}
    state = State(state.step, params, state.model_state, state.opt_state, state.key)
    file = tmp_path_factory.mktemp("text") / "new.txt"
    file.write_text(TEXT)
    return predict(TrainedRun(run, state), [file])


@pytest.mark.slow
def test_rows_have_words_and_tags(rows):
    assert [row["input"].rpartition(":")[2] for row in rows] == ["1", "3"]
    assert rows[0]["words"] == ["Ada", "King", "met", "Bob"]
    assert [row["tags"] for row in rows] == [["B-p", "I-p", "O", "B-p"], ["B-p"]]
    assert json.loads(to_json(rows))[0]["tags"] == rows[0]["tags"]
    assert to_csv(rows).splitlines()[1].split(",")[1:] == ["Ada King met Bob", "B-p I-p O B-p"]


def test_tagged_text_is_printed_in_columns_or_in_color(rows):
    assert to_columns(rows) == "Ada\tB-p\nKing\tI-p\nmet\tO\nBob\tB-p\n\nmet\tB-p\n\n"
    bold = "\x1b[1;38;5;39m{}\x1b[22m/p\x1b[0m"
    expected = f"{bold.format('Ada King')} met {bold.format('Bob')}\n{bold.format('met')}\n"
    assert to_color(rows) == expected


def test_spans_of_other_tags_are_single_words():
    tags = ["NN", "NN", "B-a", "I-b", "I-b", "O", "O"]
    expected = [("NN", ["0"]), ("NN", ["1"]), ("a", ["2"]), ("b", ["3", "4"])]
    assert list(spans(list("0123456"), tags)) == [*expected, ("", ["5"]), ("", ["6"])]
