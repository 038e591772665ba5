"""Text: tokenizers invert themselves, windows cover each token once, streams are contiguous.

And no document is in two splits.

Seen to fail: the refusals of `pack` and `train_bpe`, each without its check; documents apart
without the end token before each, and with their starts left out of the fingerprint.
"""

from itertools import pairwise
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import jdl
from jdl.data import ByteTokenizer, load_tokenizer, text, text_pairs, train_bpe
from jdl.data.corpus import documents, pack, stdlib
from jdl.sampling import decode_until_end

PARAGRAPHS = [f"Paragraph {n}: " + "déjà vu, über alles. " * (n % 5 + 1) for n in range(100)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(PARAGRAPHS), "utf-8")
    return path


def test_bytes_come_back_and_specials_are_left_out():
    tokens = ByteTokenizer().encode("naïve\n")
    assert tokens.dtype == np.int32
    assert tokens.tolist() == list("naïve\n".encode())
    assert ByteTokenizer().decode([*tokens, 256, 257]) == "naïve\n"
    assert ByteTokenizer().decode([255]) == "\ufffd"
    assert decode_until_end(ByteTokenizer(), np.asarray([72, 105, 256, 33])) == "Hi"


def test_subwords_are_learned_alike_each_time_and_come_back(tmp_path):
    pytest.importorskip("tokenizers")
    one, two = (train_bpe(PARAGRAPHS, 300) for _ in range(2))
    tokens = one.encode(PARAGRAPHS[3])
    np.testing.assert_array_equal(tokens, two.encode(PARAGRAPHS[3]))
    assert one.decode(tokens) == PARAGRAPHS[3]
    assert len(tokens) < len(PARAGRAPHS[3]) / 2
    assert (one.vocab_size, one.eos_id, one.mask_id) == (300, 0, 1)
    one.save(tmp_path / "tokenizer.json")
    read = load_tokenizer(tmp_path / "tokenizer.json")
    np.testing.assert_array_equal(read.encode(PARAGRAPHS[3]), tokens)
    with pytest.raises(jdl.Error, match="none of the tokens <no>"):
        load_tokenizer(tmp_path / "tokenizer.json", eos_token="<no>")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(jdl.Error, match=r"broken\.json"):
        load_tokenizer(tmp_path / "broken.json")


def test_the_tokenizer_of_a_model_is_found_in_its_folder(tmp_path):
    """That of a BERT by its vocabulary: lowercased, unless a file beside it says otherwise."""
    pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "deja", "vu", "Vu", "##s", ","]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    found = load_tokenizer(tmp_path)
    assert found.encode("Déjà VUS, xyz").tolist() == [5, 6, 8, 9, 1]
    assert (found.special_tokens(2), found.eos_id, found.mask_id) == ([[2], [3], [3]], 3, 4)
    assert found.decode([5, 6, 8, 9]) == "deja vus,"
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(tmp_path / "vocab.txt").encode("Vus vu").tolist() == [7, 8, 6]
    train_bpe(PARAGRAPHS, 300).save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path).vocab_size == 300
    (tmp_path / "none").mkdir()
    with pytest.raises(jdl.Error, match=r"none/tokenizer\.json"):
        load_tokenizer(tmp_path / "none")


def test_windows_cover_each_token_once_as_a_target():
    windows = pack(PARAGRAPHS, ByteTokenizer(), 16)
    whole = np.concatenate([[*paragraph.encode(), 256] for paragraph in PARAGRAPHS])
    x = windows.take(np.arange(len(windows)))["x"]
    np.testing.assert_array_equal(x[:, 1:].ravel(), whole[1 : 1 + 16 * len(windows)])
    np.testing.assert_array_equal(x[1:, 0], x[:-1, -1])
    assert len(whole) - 1 - 16 * len(windows) < 16
    assert windows.bytes_per_token == pytest.approx(
        sum(len(p.encode()) for p in PARAGRAPHS) / len(whole)
    )
    assert windows.bounds == {"x": (int(whole.min()), 256)}
    assert windows.fingerprint != pack(PARAGRAPHS, ByteTokenizer(), 17).fingerprint


@pytest.mark.parametrize("length", [3, 5, 35])
def test_documents_apart_begin_with_the_end_token(length):
    """Each token of a text, and its end, is predicted once, and none from another document."""
    texts, end = ["abc", "", "de", "f" * 20, "g"], 256
    windows = pack(texts, ByteTokenizer(), length, separate=True)
    rows = windows.take(np.arange(len(windows)))
    x, segment = rows["x"], rows["segment"]
    counted = segment[:, 1:] == segment[:, :-1]
    whole = [(a, b) for text in texts for a, b in pairwise([end, *text.encode(), end])]
    found = [*zip(x[:, :-1][counted].tolist(), x[:, 1:][counted].tolist(), strict=True)]
    assert found == whole[: len(found)]
    assert len(whole) - len(found) < length
    assert (segment[:, 0] == 0).all()
    assert windows.bytes_per_token == pack(texts, ByteTokenizer(), 3).bytes_per_token


def test_documents_are_told_apart_where_they_were_joined_not_by_their_tokens():
    tokenizer = SimpleNamespace(
        encode=lambda text: np.frombuffer(text.encode(), np.uint8), eos_id=0
    )
    one, two = (pack(texts, tokenizer, 5, separate=True) for texts in (["a\0\0b"], ["a", "b"]))
    np.testing.assert_array_equal(one.tokens, two.tokens)
    rows = [dataset.take(np.arange(1))["segment"][0].tolist() for dataset in (one, two)]
    assert rows == [[0] * 6, [0] * 3 + [1] * 3]
    assert one.fingerprint != two.fingerprint


def test_no_document_is_in_two_parts(file):
    parts = text(file, length=8)
    texts = [ByteTokenizer().decode(part.tokens.tolist()) for part in parts]
    for paragraph in PARAGRAPHS[::7]:
        name = paragraph.partition(":")[0] + ":"
        assert sum(name in part for part in texts) == 1
    assert [sum(part.tokens == 256) for part in parts] == [94, 1, 5]


def test_streams_go_on_and_say_where_they_start(file):
    windows = text(file, length=8)[0]
    batches = windows.contiguous_batches(6)
    x = np.stack([np.asarray(batches[i]["x"]) for i in range(len(batches) + 1)])
    np.testing.assert_array_equal(x[1:-1, :, 0], x[:-2, :, -1])
    np.testing.assert_array_equal(x[-1], x[0])
    starts = [np.asarray(batches[i]["start"]) for i in range(len(batches) + 1)]
    assert starts[0].all()
    assert starts[-1].all()
    assert not np.any(starts[1:-1])
    assert all(batches[i]["mask"].all() for i in range(len(batches)))
    assert len(batches) == len(windows) // 6
    with pytest.raises(jdl.Error, match="streams"):
        windows.contiguous_batches(10_000)
    with pytest.raises(jdl.Error, match="adds a column start"):
        jdl.data.arrays(x=np.zeros((4, 2)), start=np.arange(4)).contiguous_batches(2)


def test_pairs_are_padded_with_their_lengths():
    pairs = text_pairs([("ab", "c"), ("a", "xyz"), ("a" * 99, "b")], ByteTokenizer(), 5)
    batch = pairs.batches(2)[0]
    np.testing.assert_array_equal(batch["x"], [[97, 98, 256], [97, 256, 256]])
    np.testing.assert_array_equal(batch["y"], [[99, 256, 256, 256], [120, 121, 122, 256]])
    np.testing.assert_array_equal(batch["length"], [3, 2])
    np.testing.assert_array_equal(batch["y_length"], [2, 4])
    assert batch["x"].dtype == jnp.int32
    cut = text_pairs([("abcdef", "c")], ByteTokenizer(), 5, truncate=True).batches(1)[0]
    np.testing.assert_array_equal(cut["x"], [[97, 98, 99, 100, 256]])


@pytest.mark.slow
def test_the_standard_library_is_there_without_its_tests():
    texts = stdlib()
    assert sum(map(len, texts)) > 5_000_000
    assert any("class JSONDecoder" in text for text in texts)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: documents(path / "nowhere"), "cannot be read"),
        (lambda path: documents(path), "cannot be read"),
        (lambda path: text(path / "short.txt"), "3 paragraphs"),
        (lambda path: pack(["ab"], ByteTokenizer(), 9), "do not fill one window"),
        (lambda path: pack(["ab"], ByteTokenizer(), 0), "at least 1, not 0"),
        (lambda path: pack([], ByteTokenizer(), 9), "takes a list of texts"),
        (lambda path: pack("one text", ByteTokenizer(), 2), "takes a list of texts"),
        (lambda path: train_bpe("one text", 300), r"a list of texts: give \[text\]"),
        (lambda path: train_bpe(["abc"], 257), "at least 258, not 257"),
        (lambda path: text_pairs([("abc", "d")], ByteTokenizer(), 2), "None of the 1 pairs"),
    ],
)
def test_refusals(call, message, tmp_path):
    if "train_bpe" in call.__code__.co_names:
        pytest.importorskip("tokenizers")
    (tmp_path / "short.txt").write_text("a\n\nb\n\nc")
    with pytest.raises(jdl.Error, match=message):
        call(tmp_path)
