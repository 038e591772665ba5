"""Dialogues: which tokens are learned, and a conversation with what has learned them.

Seen to fail: a loss of all tokens, an answer that is learned without its end, messages that are
dropped with that of the system first, an answer that goes on after its end; a tokenizer of lists.
"""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jdl
from jdl.cli import call_verb
from jdl.data.dialogues import prompt_tokens
from jdl.inspect.chat import reply
from jdl.inspect.restore import TrainedRun
from jdl.models.gpt import GPT
from jdl.models.transformer import TransformerConfig
from jdl.objectives import next_token

BYTES = jdl.data.ByteTokenizer()
SYSTEM, USER, ASSISTANT, END = 258, 259, 260, 256
ANSWERS = {"a": "one", "b": "two, and", "c": "é"}
LENGTH = 40


def message(role, content):
    return {"role": role, "content": content}


def turns(*pairs, system=""):
    messages = [message("system", system)] if system else []
    for asked, answer in pairs:
        messages += [message("user", asked), message("assistant", answer)]
    return messages


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that has learned what to answer to a, b and c, also after one another."""
    pairs = list(ANSWERS.items())
    data = jdl.data.dialogues([turns(p, q) for p in pairs for q in pairs], max_length=LENGTH)
    model = GPT(data.vocab_size, TransformerConfig(32, 1, heads=2, max_length=LENGTH))
    learner = jdl.descent(next_token(model), optax.adam(1e-2))
    c = jdl.Config(name="chat", steps=60)
    run = jdl.Run(c, learner, data.shuffled(9, 0), tokenizer=data.tokenizer)
    result = jdl.fit(run, jdl.Options(root=tmp_path_factory.mktemp("runs"), quiet=True))
    return TrainedRun(run, result.state)


def test_answers_and_their_ends_are_learned_and_nothing_else(tmp_path):
    file = tmp_path / "chats.jsonl"
    dialogue = turns(("hi", "yo"), ("?", "é"), system="s")
    file.write_text(json.dumps({"messages": dialogue}) + "\n\n")
    data = jdl.data.dialogues(file)
    row = data.columns
    tokens = [SYSTEM, *b"s", END, USER, *b"hi", END, ASSISTANT, *b"yo", END]
    tokens += [USER, *b"?", END, ASSISTANT, *"é".encode(), END]
    assert row["x"][0].tolist() == tokens + [0] * (24 - len(tokens))
    assert row["length"].tolist() == [len(tokens)]
    learned = row["x"][0][row["loss_mask"][0].astype(bool)].tolist()
    assert learned == [*b"yo", END, *"é".encode(), END]
    assert (data.bytes_per_token, data.vocab_size) == (1, 261)
    np.testing.assert_array_equal(jdl.data.dialogues([dialogue]).columns["x"], row["x"])


@pytest.mark.slow
def test_the_loss_is_that_of_the_learned_tokens():
    data = jdl.data.dialogues([turns(("a", "bcd"), ("e", "f")), turns(("gh", "i"))])
    model = GPT(data.vocab_size, TransformerConfig(16, 1, heads=2, max_length=LENGTH))
    objective = next_token(model)
    batch = data.batches(3)[0]  # with a row of padding
    variables = jax.jit(objective.init)(jax.random.key(0), batch)
    out = jax.jit(objective.loss, static_argnums=3)(variables, batch, jax.random.key(1), False)
    logits = model.apply(variables, batch["x"][:, :-1])
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["x"][:, 1:, None], 2)[..., 0]
    learned = [(0, range(4, 8)), (0, range(12, 14)), (1, range(5, 7))]
    places = [(row, step - 1) for row, steps in learned for step in steps]
    expected = np.mean([losses[place] for place in places])
    np.testing.assert_allclose(out.loss.value(), expected, rtol=1e-5)
    assert float(out.loss.count) == len(places)


def test_what_is_longer_ends_with_an_answer():
    with pytest.warns(UserWarning, match="1 of 2 dialogues have more than 12 tokens"):
        data = jdl.data.dialogues(
            [turns(("a", "b"), ("c", "d" * 9)), turns(("e", "f"))], max_length=12
        )
    assert data.truncated == 1
    assert data.columns["length"].tolist() == [6, 6]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("hello", "has no messages"),
        ([], "has no messages"),
        ([message("user", "a")], "no answer of the assistant"),
        (turns(("a", "b" * 99)), "no answer of the assistant within 64 tokens, of its 104"),
        ([message("bot", "a")], "of the role 'bot'; roles are system, user, assistant"),
        ([message("user", " ")], "message 0, of the user, has no text"),
        ([message("user", "\ud800")], "not UTF-8"),
        ([message("assistant", "a")], "comes first"),
        ([*turns(("a", "b")), message("system", "c")], "comes after one of the assistant"),
    ],
)
def test_what_is_no_dialogue_is_refused(messages, expected, tmp_path):
    with pytest.raises(jdl.Error, match=f"^Dialogue 0.*{expected}"):
        jdl.data.dialogues([messages], max_length=64)
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": messages}))
    with pytest.raises(jdl.Error, match=f"chats.jsonl:1.*{expected}"):
        jdl.data.dialogues(file, max_length=64)


def test_a_file_that_holds_no_dialogues_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"messages": [}')
    (tmp_path / "b.jsonl").write_text("\n")
    (tmp_path / "c.txt").write_text("hello")
    for name, expected in (
        ("a.jsonl", ":1 is not JSON"),
        ("b.jsonl", "no dialogue"),
        ("c.txt", "no .jsonl"),
    ):
        with pytest.raises(jdl.Error, match=expected):
            jdl.data.dialogues(tmp_path / name)


@pytest.mark.slow
def test_a_mask_of_another_shape_is_refused(trained):
    data = jdl.data.arrays(x=np.zeros((4, 8), np.int32), loss_mask=np.ones((4, 7), bool))
    with pytest.raises(jdl.Error, match=r"loss_mask.*\(2, 8\).*\(2, 7\)"):
        trained.objective.check(data.batches(2).spec, {})


def test_what_was_learned_is_answered_in_pieces_up_to_its_end(trained):
    for asked, answer in ANSWERS.items():
        pieces = list(reply(trained, [message("user", asked)]))
        assert pieces == list(answer)
    longer = [*turns(("a", "one")), message("user", "b")]
    assert "".join(reply(trained, longer)) == "two, and"
    assert "".join(reply(trained, longer, tokens=3)) == "two"


def test_what_does_not_fit_into_the_cache_is_forgotten_oldest_first(trained, monkeypatch):
    read = []
    monkeypatch.setattr(jdl.inspect.chat.sampling, "stream", lambda *args: read.append(args) or [])
    later = [*turns(("c", "é" * 3)), message("user", "a")]
    talk = [message("system", "s"), *turns(("b", "two, and"), ("a", "one")), *later]
    list(reply(trained, talk, tokens=200))
    _, _, prompt, tokens, *_ = read[0]
    expected = prompt_tokens(BYTES, [talk[0], *later])
    assert prompt.tolist() == expected.tolist()
    assert tokens == LENGTH + 1 - len(prompt)
    with pytest.raises(jdl.Error, match=r"The message has 44 tokens.*reads 21 at most"):
        reply(trained, [message("user", "a" * 41)])
    with pytest.raises(jdl.Error, match="follows a message of the user"):
        reply(trained, turns(("a", "one")))


def test_another_run_is_no_chat_model(trained):
    data = jdl.data.arrays(x=np.zeros((4, 8), np.int32)).batches(2)
    other = TrainedRun(
        jdl.Run(trained.run.config, trained.run.learner, data, tokenizer=BYTES), trained.state
    )
    with pytest.raises(jdl.Error, match="chat is no chat model"):
        reply(other, [message("user", "a")])


def test_the_verb_talks_line_by_line(trained, monkeypatch, capsys):
    import jdl.inspect.restore
    import jdl.store.catalog

    monkeypatch.setattr(jdl.inspect.restore, "restore", lambda folder, best: trained)
    monkeypatch.setattr(jdl.store.catalog, "find", lambda run, root: run)
    lines = iter(["a", "", "b", "/new", "c", "a \\", "", "/new", "\\", "b"])

    def line(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", line)
    call_verb("chat", ["chat"])
    assert capsys.readouterr().out == "one\ntwo, and\né\none\ntwo, and\n"


def test_a_tokenizer_may_give_a_list():
    plain = SimpleNamespace(
        encode=lambda text: BYTES.encode(text).tolist(),
        decode=BYTES.decode,
        eos_id=END,
        vocab_size=258,
    )
    talk = [[message("user", "a"), message("assistant", "one")]]
    found, expected = (jdl.data.dialogues(talk, tokenizer=one) for one in (plain, BYTES))
    assert found.fingerprint == expected.fingerprint
