"""Labelled texts from files: what is read, what is refused and where, and what a run makes of them.

Seen to fail: numbers of rows in place of lines, bytes that are not UTF-8 replaced, a template
without [CLS], the csv module's own limit of a value, splits taken for classes, lines cut at U+2028.
"""

import csv
import json
import os
from dataclasses import replace

import flax.linen as nn
import jax
import numpy as np
import pandas as pd
import pytest

import jdl
from jdl.data.text_files import read_lines, read_rows
from jdl.data.tokenizers import ByteTokenizer, SubwordTokenizer, encode_texts
from jdl.inspect.predict import predict
from jdl.inspect.restore import TrainedRun
from jdl.models.bert import mean_pooling

TEXTS = ["good film", 'a "good", long one\nof two lines', "bad", "ünwatchable 🙈"]
LABELS = ["pos", "pos", "neg", "neg"]


@pytest.fixture
def folder(tmp_path):
    """A folder whose name is no trouble."""
    path = tmp_path / "my texts 🗂"
    path.mkdir()
    return path


def as_csv(folder, name="a.csv", **options):
    path = folder / name
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(path, index=False, **options)
    return path


def as_jsonl(folder):
    rows = [json.dumps({"text": t, "label": y}) for t, y in zip(TEXTS, LABELS, strict=True)]
    (folder / "a.jsonl").write_text("\n\n".join(rows))
    return folder / "a.jsonl"


def as_folders(folder):
    for n, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)):
        (folder / "all" / label).mkdir(parents=True, exist_ok=True)
        (folder / "all" / label / f"{n}.txt").write_text(text)
    (folder / "all" / "neg" / "loop").symlink_to(folder / "all")
    (folder / "all" / "self").symlink_to(folder / "all" / "self")
    (folder / "all" / "readme.md").write_text("of no class")
    (folder / "all" / "neg" / "._0.txt").write_text("hidden")
    return folder / "all"


SOURCES = {
    "csv": as_csv,
    "csv of Excel": lambda folder: as_csv(folder, encoding="utf-8-sig", lineterminator="\r\n"),
    "tsv": lambda folder: as_csv(folder, "a.tsv", sep="\t"),
    "jsonl": as_jsonl,
    "folders": as_folders,
    "columns": lambda folder: {"text": TEXTS, "label": LABELS},
    "frame": lambda folder: pd.DataFrame({"text": TEXTS, "label": LABELS}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_tokens(folder, name):
    data = jdl.data.labelled_text(SOURCES[name](folder))
    assert data.labels == ("neg", "pos")
    columns, tokenizer = data.columns, ByteTokenizer()
    assert columns["x"].shape == (4, 32)  # 31 bytes and the end
    read = {}
    for x, length, y in zip(columns["x"], columns["length"], columns["y"], strict=True):
        assert x[length - 1] == tokenizer.eos_id
        assert not x[length:].any()
        read[tokenizer.decode(x[: length - 1])] = data.labels[y]
    assert read == dict(zip(TEXTS, LABELS, strict=True))


def test_labels_and_tokenizer_are_those_of_the_first_source(folder):
    other = {"text": ["zzz zzz", "good"], "label": ["neg", "neg"]}
    train, test = jdl.data.labelled_text(as_csv(folder), other, vocab_size=270)
    assert test.labels == train.labels == ("neg", "pos")
    np.testing.assert_array_equal(test.columns["y"], [0, 0])
    assert test.tokenizer is train.tokenizer
    assert train.columns["x"].shape[1] == test.columns["x"].shape[1]
    alone = jdl.data.labelled_text(as_csv(folder), vocab_size=270)
    np.testing.assert_array_equal(train.columns["x"][:, :24], alone.columns["x"][:, :24])
    with pytest.raises(jdl.Error, match=r"Row 1 has the label 'odd', which is none of the 2"):
        jdl.data.labelled_text(as_csv(folder), {"text": ["a", "b"], "label": ["pos", "odd"]})


@pytest.mark.parametrize(
    ("given", "wanted", "names"),
    [
        ([2, 0, 1], np.array([2, 0, 1], np.int32), ()),
        (["2", "0", "10"], np.array([2, 0, 10], np.int32), ()),
        ([0.5, 1, 2], np.array([0.5, 1, 2], np.float32), ()),
        (["1e3", "2", "-1"], np.array([1000, 2, -1], np.float32), ()),
        ([True, False, True], np.array([1, 0, 1], np.int32), ("False", "True")),
        (["1", "b", "a"], np.array([0, 2, 1], np.int32), ("1", "a", "b")),
    ],
)
def test_labels_are_numbers_or_classes(given, wanted, names):
    data = jdl.data.labelled_text({"text": list("abc"), "label": given})
    y = data.columns["y"]
    np.testing.assert_array_equal(y, wanted)
    assert (y.dtype, data.labels) == (wanted.dtype, names)


def test_names_of_classes_may_be_given(folder):
    stars = jdl.data.labelled_text(
        {"text": list("abc"), "label": [5, 1, 3]}, labels=[str(n) for n in range(1, 6)]
    )
    np.testing.assert_array_equal(stars.columns["y"], [4, 0, 2])
    with pytest.raises(jdl.Error, match="none of the 1 labels pos"):
        jdl.data.labelled_text(as_csv(folder), labels=["pos"])
    many = {"text": ["a"] * 1500, "label": [f"row {n}" for n in range(1500)]}
    with pytest.raises(jdl.Error, match="1500 different values in 1500 rows"):
        jdl.data.labelled_text(many)


def template():
    """A tokenizer with BERT's template, which also truncates and pads, as files of models do."""
    import tokenizers

    words = {name: n for n, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdef"])}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    return library


@pytest.mark.parametrize("room", [5, 6, 7, 8, 20])
@pytest.mark.parametrize("rows", [[("a b c d e f",), ("a",)], [("a b c d e", "f"), ("a", "b c")]])
def test_tokens_are_those_of_the_library(room, rows):
    """With its template, and truncated at the longer text first."""
    library, ours = template(), template()
    ours.enable_padding(length=30)
    ours.enable_truncation(3)
    encoded, truncated = encode_texts(SubwordTokenizer(ours), rows, room)
    library.enable_truncation(room, strategy="longest_first")
    wanted = [library.encode(*row) for row in rows]
    assert [tokens.tolist() for tokens in encoded] == [row.ids for row in wanted]
    assert truncated == sum(bool(row.overflowing) for row in wanted)
    with pytest.raises(jdl.Error, match="max_length must be at least"):
        encode_texts(SubwordTokenizer(template()), rows, 2)


def test_pairs_are_joined_and_truncated_with_a_warning():
    columns = {"a": ["xy", "x" * 30], "b": ["z", "z"], "label": [0.5, 1.5]}
    with pytest.warns(UserWarning, match="1 of 2 texts have more than 16 tokens"):
        data = jdl.data.labelled_text(columns, text=("a", "b"), max_length=16)
    tokens = data.columns["x"].tolist()
    assert tokens[0][:5] == [120, 121, 256, 122, 256]
    assert tokens[1] == [120] * 13 + [256, 122, 256]
    assert (data.truncated, data.split(0.5, 0.5)[0].tokenizer) == (1, data.tokenizer)


BAD_JSON = [
    ("{broken", "is not JSON"),
    ('{"text": "a", "text": "b", "label": 1}', "the name 'text' comes twice"),
    ("[1]", "is no JSON object"),
    ('{"text": "a"}', "has no label in column label, but None"),
    ('{"text": 3, "label": 1}', "has no text in column text, but 3"),
    ('{"text": " ", "label": 1}', "has an empty text"),
    ('{"text": "a\\u0000", "label": 1}', "has a NUL"),
    ('{"text": "a", "label": NaN}', "has no label in column label, but nan"),
    ('{"text": "a", "label": [1]}', "has no label"),
    ("[" * 50_000, "is not JSON"),
    (b'{"text": "\xff", "label": 1}', "is not UTF-8"),
]


@pytest.mark.parametrize(("line", "message"), BAD_JSON, ids=[message for _, message in BAD_JSON])
def test_a_bad_line_of_json_is_named_or_skipped(folder, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    good = b'{"text": "good", "label": 1}\n'
    path = folder / "a.jsonl"
    path.write_bytes(good + b"\n" + line + b"\n" + good)
    with pytest.raises(jdl.Error, match=rf"a.jsonl:3 .*{message}.*on_bad"):
        jdl.data.labelled_text(path)
    with pytest.warns(UserWarning, match=f"1 bad rows are left out: .*:3 .*{message}"):
        data = jdl.data.labelled_text(path, on_bad="skip")
    assert len(data) == 2
    assert len(data.skipped) == 1


BAD_CSV = [
    ('"a\nb",1,extra', "a.csv:4 has 3 values, and the header 2", True),
    ("a", "a.csv:4 has 1 values", True),
    ("\xff,1", "a.csv:4 is not UTF-8", True),
    ("a\0,1", "a.csv:4 has a NUL", True),
    ("a,", "a.csv:4 has no label", True),
    ('"never ends,1\n', "a.csv:4 cannot be read as CSV", False),
    ('"a"b,1', "a.csv:4 cannot be read as CSV", False),
]


@pytest.mark.parametrize(("row", "message", "skips"), BAD_CSV, ids=[m for _, m, _ in BAD_CSV])
def test_a_bad_row_of_csv_is_named_by_its_first_line(folder, row, message, skips):
    path = folder / "a.csv"
    path.write_bytes(b'text,label\n"two\nlines",1\n' + row.encode("latin-1") + b"\nlast,0\n")
    with pytest.raises(jdl.Error, match=message):
        jdl.data.labelled_text(path)
    if not skips:
        with pytest.raises(jdl.Error, match=message):
            jdl.data.labelled_text(path, on_bad="skip")
        return
    with pytest.warns(UserWarning, match=message):
        assert len(jdl.data.labelled_text(path, on_bad="skip")) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "names the columns .none., but not text"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"text,y\na,1\n", "a.csv:1 names the columns text, y, but not label"),
        ("a.csv", b"text,label,text\na,1,b\n", "names the column text twice"),
        ("a.csv", "text,label\na,1\n".encode("utf-16"), "is UTF-16"),
        ("a.jsonl", b"", "has no rows"),
        ("a.pdf", b"x", "is neither .csv"),
    ],
)
def test_a_file_that_cannot_serve_is_refused(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(jdl.Error, match=message):
        jdl.data.labelled_text(folder / name)


def test_lines_without_an_end_and_folders_without_texts_are_refused(folder, monkeypatch):
    monkeypatch.setattr("jdl.data.text_files.MAX_LINE", 100)
    for name in ("a.csv", "a.jsonl"):
        (folder / name).write_text("text,label\n" + "a" * 1000)
        with pytest.raises(jdl.Error, match=rf"{name}:2 has more than|{name}:1 is not JSON"):
            jdl.data.labelled_text(folder / name)
    assert csv.field_size_limit() == 131_072
    with pytest.raises(jdl.Error, match="has no folders"):
        jdl.data.labelled_text(folder)
    (folder / "empty").mkdir()
    with pytest.raises(jdl.Error, match="empty has no files that can be read"):
        jdl.data.labelled_text(folder)
    with pytest.raises(jdl.Error, match="does not exist"):
        jdl.data.labelled_text(folder / "gone.csv")
    with pytest.raises(jdl.Error, match="same number of rows"):
        jdl.data.labelled_text({"text": ["a"], "label": []})
    with pytest.raises(jdl.Error, match="has text, label; list does not"):
        jdl.data.labelled_text([1, 2])
    with pytest.raises(jdl.Error, match="on_bad is"):
        read_rows({}, ["text"], None, "ignore")


def test_a_long_text_of_csv_is_read(folder):
    text = "a word " * 30_000
    pd.DataFrame({"text": [text], "label": ["x"]}).to_csv(folder / "a.csv", index=False)
    assert read_rows(folder / "a.csv", ["text"], "label").texts == [(text,)]
    assert csv.field_size_limit() == 131_072


def test_folders_of_splits_are_no_classes_and_a_test_may_lack_some(folder):
    train = as_folders(folder)
    for name in ("train", "test"):
        (folder / "both" / name).mkdir(parents=True)
        (folder / "both" / name / "a.txt").write_text("a")
    with pytest.raises(jdl.Error, match="look like splits"):
        jdl.data.labelled_text(folder / "both")
    (folder / "later" / "pos").mkdir(parents=True)
    (folder / "later" / "pos" / "a.txt").write_text("fine")
    os.mkfifo(folder / "later" / "pos" / "b.txt")
    with pytest.raises(jdl.Error, match=r"b\.txt is no regular file"):
        jdl.data.labelled_text(folder / "later", labels=["pos"])
    (folder / "later" / "pos" / "b.txt").unlink()
    _, test = jdl.data.labelled_text(train, folder / "later")
    assert (test.columns["y"].tolist(), test.labels) == ([1], ("neg", "pos"))
    (folder / "later" / "odd").mkdir()
    with pytest.raises(jdl.Error, match="folder odd, which is none of the labels neg, pos"):
        jdl.data.labelled_text(train, folder / "later")
    with pytest.raises(jdl.Error, match="name one class twice"):
        jdl.data.labelled_text({"text": ["a"], "label": ["x"]}, labels=["x", "x", "y"])


def test_lines_are_those_of_an_editor(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\fpage\u2028more\r\n\n  \ntwo".encode())
    assert read_lines(path) == ([f"{path}:1", f"{path}:4"], ["one\fpage\u2028more", "two"])
    path.write_bytes(b"one\n\xff\n")
    with pytest.raises(jdl.Error, match=r"a\.txt:2 is not UTF-8"):
        read_lines(path)
    path.write_text("\ufeff\n")
    with pytest.raises(jdl.Error, match="is empty"):
        read_lines(path)


class Bag(nn.Module):
    """The mean of the embeddings of the real tokens."""

    @nn.compact
    def __call__(self, x, mask):
        return nn.Dense(2)(mean_pooling(nn.Embed(270, 8)(x), mask))


@pytest.mark.slow
def test_a_run_learns_them_and_predicts_the_texts_of_files(folder):
    """The text good is pos, and longer texts than those of the training are truncated."""
    texts = [f"{word} {n}" for n in range(4) for word in ("good", "bad")]
    pd.DataFrame({"text": texts, "label": ["pos", "neg"] * 4}).to_csv(folder / "r.csv", index=False)
    train, test = jdl.data.labelled_text(folder / "r.csv", folder / "r.csv", vocab_size=270)
    learner = jdl.descent(jdl.objectives.classify(Bag()), jdl.optim.adamw(3e-2))
    loader = train.shuffled(8, 0)
    run = jdl.Run(jdl.Config(name="reviews", steps=30), learner, loader, test=test.batches(8))
    state, step = jax.jit(learner.init)(jax.random.key(0), loader[0]), jax.jit(learner.step)
    for _ in range(30):
        state, metrics = step(state, loader[0])
    assert float(metrics["accuracy"].value()) == 1
    trained = TrainedRun(replace(run, labels=train.labels), state)
    (folder / "new.txt").write_text("good 2\nbad 3\n")
    (folder / "new.jsonl").write_text(
        '{"text": "bad 1 good 1 good 1 good 1"}\n{"text": "good 0"}\n'
    )
    pd.DataFrame({"n": [1, 2], "text": ["good 1", "bad 2"]}).to_csv(folder / "n.csv", index=False)
    with pytest.warns(UserWarning, match="1 of 2 texts have more than 8 tokens"):
        rows = predict(trained, [folder / name for name in ("new.txt", "new.jsonl", "n.csv")])
    assert [row["label"] for row in rows[:2] + rows[3:]] == ["pos", "neg", "pos", "pos", "neg"]
    assert rows[0]["input"] == f"{folder / 'new.txt'}:1"
    assert rows[5]["input"] == f"{folder / 'n.csv'}:3"
    (folder / "new.txt").rename(folder / "new.csv")
    with pytest.raises(jdl.Error, match="names the columns good 2, but not text"):
        predict(trained, [folder / "new.csv"])
