"""Pairs of sequences: aligned, split without a sentence or word in common, padded as for CTC."""

import json
from itertools import chain, combinations, product

import numpy as np
import pytest

import jdl
from jdl.data import pronunciations, sequence_pairs, translation
from jdl.data.fetch import fetch
from jdl.data.sequence_pairs import LANGUAGES, LETTERS, frames_needed

VERSES = 200


@pytest.fixture
def verses(tmp_path, monkeypatch):
    """Verse n reads "en n" and so on; 7 is 3 again in Arabic, and 9 is 3 again in English alone."""
    text = [f"ar {3 if n == 7 else n}" for n in range(VERSES)]
    for language in ("en", "fr", "es"):
        words = [f"{language} {3 if n == 9 and language == 'en' else n}" for n in range(VERSES)]
        all_verses = [{"text": t, "translation": w} for t, w in zip(text, words, strict=True)]
        chapters = [{"verses": all_verses[:50]}, {"verses": all_verses[50:]}]
        (tmp_path / f"quran_{language}.json").write_text(json.dumps(chapters))
    monkeypatch.setattr(sequence_pairs, "dataset_folder", {"quran": tmp_path}.__getitem__)


def numbers(part):
    return [int(sentence.split()[1]) for sentence, _ in part]


@pytest.mark.usefixtures("verses")
def test_verses_are_aligned_and_none_comes_twice():
    parts = translation("en", "fr")
    assert [len(part) for part in parts] == pytest.approx(
        [0.9 * VERSES, 0.05 * VERSES, 0.05 * VERSES], abs=2
    )
    assert sorted(chain(*parts)) == sorted(
        (f"en {n}", f"fr {n}") for n in range(VERSES) if n not in (7, 9)
    )
    from_arabic = list(chain(*translation("ar", "en")))
    assert len(from_arabic) == VERSES - 1
    assert ("ar 9", "en 3") in from_arabic


@pytest.mark.usefixtures("verses")
def test_a_verse_is_in_one_part_whatever_the_languages():
    ways = [
        translation(source, target, seed=1)
        for source, target in (("en", "fr"), ("es", "en"), ("ar", "es"))
    ]
    for one, other in combinations(ways, 2):
        for here, there in product(range(3), repeat=2):
            assert here == there or not set(numbers(one[here])) & set(numbers(other[there]))
    assert numbers(translation(seed=1)[1]) == numbers(ways[0][1])
    assert numbers(translation(seed=2)[1]) != numbers(ways[0][1])


def test_unknown_languages_are_refused():
    with pytest.raises(jdl.Error, match=r"in ar, bn, en, .* and not in 'de'"):
        translation("de", "en")


DICTIONARY = """\
'tis T IH1 Z # contraction
aaron EH1 R AH0 N
mr M IH1 S T ER0
toolongbyfarforthis T UW1
u.s. Y UW1
zoo's(2) Z UW1 Z Z
"""


@pytest.fixture
def dictionary(tmp_path, monkeypatch):
    """The lines above, and 81 words of 4 letters with 3 pronunciations, 2 alike but for stress."""
    words = ["".join(letters) for letters in product("abc", repeat=4)]
    ways = [(word, " ".join(f"{letter.upper()}1" for letter in word)) for word in words]
    lines = [
        f"{word} {said}\n{word}(2) {said.replace('1', '0')}\n{word}(3) {said} D\n"
        for word, said in ways
    ]
    (tmp_path / "cmudict.dict").write_text(DICTIONARY + "".join(lines))
    monkeypatch.setattr(sequence_pairs, "dataset_folder", {"cmudict": tmp_path}.__getitem__)


def read(*parts):
    """The words and sounds that these parts say."""
    return list(chain(*map(read_one, parts)))


def read_one(part):
    columns = part.take(np.arange(len(part)))
    for column, length in (("x", "length"), ("y", "y_length")):
        assert columns[column].dtype == columns[length].dtype == np.int32
        beyond = np.arange(columns[column].shape[1]) >= columns[length][:, None]
        np.testing.assert_array_equal(columns[column] == 0, beyond)
    words = ["".join(LETTERS[n] for n in row) for row in columns["x"]]
    return list(
        zip(
            words,
            (" ".join(part.labels[n] for n in row).strip() for row in columns["y"]),
            strict=True,
        )
    )


@pytest.mark.usefixtures("dictionary")
def test_words_and_sounds_are_those_of_the_dictionary():
    train, valid, test = pronunciations(seed=3)
    assert train.labels == ("", "A", "AH", "B", "C", "D", "EH", "IH", "N", "R", "T", "UW", "Z")
    found = read(train, valid, test)
    assert {pair for pair in found if len(pair[0]) != 4} == {
        ("aaron", "EH R AH N"),
        ("zoo's", "Z UW Z Z"),
    }
    assert ("'tis", "T IH Z") in found
    assert ("abca", "A B C A") in found
    ways = [
        [said for word, said in read(train) if word == w] for w in {word for word, _ in read(train)}
    ]
    assert sorted({len(said) for said in ways}) == [1, 2]
    assert all(len(set(said)) == len(said) for said in ways)


@pytest.mark.usefixtures("dictionary")
def test_parts_have_no_word_in_common_and_held_out_words_come_once():
    parts = pronunciations()
    words = [[word for word, _ in read(part)] for part in parts]
    assert [len(set(part)) for part in words] == [76, 4, 4]
    assert not any(set(one) & set(other) for one, other in combinations(words, 2))
    for part in parts[1:]:
        assert all(
            said == " ".join(word.upper())
            for word, said in read(part)
            if len(word) == 4 and word != "'tis"
        )
        assert len(read(part)) == 4
    assert pronunciations(seed=1)[2].ids.tolist() != parts[2].ids.tolist()


@pytest.mark.usefixtures("dictionary")
def test_stress_length_and_frames_can_be_chosen():
    plain, stressed = (read(*pronunciations(stress=stress)) for stress in (False, True))
    assert "EH1 R AH0 N" in dict(stressed)["aaron"]
    assert len(stressed) > len(plain)
    words = {word for word, _ in read(*pronunciations(max_length=20, frames=3))}
    assert {"toolongbyfarforthis", "mr"} <= words
    assert "mr" not in dict(plain)
    assert "aaron" not in dict(read(*pronunciations(max_length=4)))
    for chosen in ({"max_length": 0}, {"frames": 0}):
        with pytest.raises(jdl.Error, match="No word has"):
            pronunciations(**chosen)


def test_equal_neighbours_need_a_blank_between_them():
    assert [frames_needed(sounds) for sounds in ((), ("A",), ("A", "B", "A"), ("A", "A", "A"))] == [
        0,
        1,
        3,
        5,
    ]


@pytest.mark.slow
def test_the_real_pairs_are_as_many_as_the_docs_say():
    """By the network, once."""
    fetch("quran")
    fetch("cmudict")
    assert [len(part) for part in translation()] == [5_445, 304, 305]
    for language in LANGUAGES:
        assert sum(map(len, translation(language, "en"))) in range(5_200, 6_063)
    assert [len(part) for part in pronunciations()] == [120_164, 6_240, 6_240]
    assert len(pronunciations()[0].labels) == 40
