"""SQuAD's exact match and F1, by hand from the rules of its official script.

Seen to fail: with articles left in; with answers that have no word counted beside others; with the
first answer in place of the best.
"""

import pytest

import jdl
from jdl.metrics import code_words, squad_scores, squad_words

CASES = [  # predicted, given answers, exact match, F1
    ("The Cat's", ["cats"], 1, 1),
    ("a big  dog", ["the dog", "big dog!"], 1, 1),
    ("in the year 1843", ["1843"], 0, 2 * 1 / (3 + 1)),
    ("New York City", ["York", "new york state"], 0, 2 * 2 / (3 + 3)),
    ("dog dog cat", ["dog"], 0, 2 * 1 / (3 + 1)),  # a word counts as often as it is in both
    ("Anna", ["a nna"], 0, 0),  # an article is a word alone
    ("", [], 1, 1),
    ("dog", [], 0, 0),
    ("", ["dog"], 0, 0),
    ("the", ["...", "?"], 1, 1),  # answers without a word are none
    ("the", ["...", "dog"], 0, 0),  # and do not count beside others
]


@pytest.mark.parametrize(("predicted", "answers", "exact", "f1"), CASES)
def test_of_one_question(predicted, answers, exact, f1):
    scores = squad_scores([predicted], [answers])
    assert scores["exact_match"].value() == exact
    assert scores["f1"].value() == pytest.approx(f1)


def test_means_of_parts_add_up_to_that_of_all():
    predicted, answers = [case[0] for case in CASES], [case[1] for case in CASES]
    whole = squad_scores(predicted, answers)
    parts = [squad_scores(predicted[n], answers[n]) for n in (slice(3), slice(3, None))]
    for name, place in (("exact_match", 2), ("f1", 3)):
        expected = sum(case[place] for case in CASES) / len(CASES)
        assert whole[name].value() == pytest.approx(expected)
        assert (parts[0][name] + parts[1][name]).value() == pytest.approx(expected)


def test_answers_that_are_code_keep_their_punctuation_and_case():
    assert squad_words("('', a)") == squad_words("[]") == []
    assert code_words("sys.maxsize - 1") == ["sys", ".", "maxsize", "-", "1"]
    code = squad_scores(["()", "none", "-1"], [["[]"], ["None"], ["- 1"]], code_words)
    assert code["exact_match"].value() == pytest.approx(1 / 3)
    assert code["f1"].value() == pytest.approx(1 / 3)
    with pytest.raises(jdl.Error, match="2 predictions and the answers of 1 questions"):
        squad_scores(["a", "b"], [["a"]])
