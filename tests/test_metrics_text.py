"""BLEU and ROUGE against numbers computed by hand from their definitions."""

import sys

import pytest

import jdl
from jdl.metrics import bleu, rouge

HYPOTHESES = ["the cats sat on the mat today", "a dog ran in the park"]
REFERENCES = ["the cat sat on the mat today .", "a dog ran in the green park"]


def test_bleu_is_the_geometric_mean_of_precisions_over_the_corpus():
    """Matches of 1 to 4 words: 12 of 13, 8 of 11, 6 of 9, 4 of 7; 13 words for 15."""
    pytest.importorskip("sacrebleu")
    geometric = (12 / 13 * 8 / 11 * 6 / 9 * 4 / 7) ** 0.25
    assert bleu(HYPOTHESES, REFERENCES) == pytest.approx(
        100 * geometric * 2.718281828 ** (1 - 15 / 13)
    )
    assert bleu(REFERENCES, REFERENCES) == pytest.approx(100)
    assert bleu(["nothing of it is here"], ["so many other words"]) == 0
    assert bleu(["The cat sat on it."], ["The cat sat on it ."]) == pytest.approx(100)


def test_rouge_is_the_mean_f_measure():
    """Stemmed, cats is cat: 7 of 7 words for 7, 6 of 6 for 7, and so on; marks are no words."""
    pytest.importorskip("rouge_score")
    scores = rouge(HYPOTHESES, REFERENCES)
    assert scores == pytest.approx(
        {"rouge1": (1 + 12 / 13) / 2, "rouge2": (1 + 8 / 11) / 2, "rougeL": (1 + 12 / 13) / 2}
    )
    crossed = rouge(["b a"], ["a b c"])
    assert crossed == pytest.approx({"rouge1": 4 / 5, "rouge2": 0, "rougeL": 2 / 5})


@pytest.mark.parametrize(
    ("score", "library"), [(bleu, "sacrebleu"), (rouge, "rouge_score.rouge_scorer")]
)
def test_a_missing_library_or_reference_is_an_error(score, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(jdl.Error, match=r"pip install 'jdl\[text\]'"):
        score(["a"], ["a"])
    for hypotheses, references in ((["a"], []), ([], [])):
        with pytest.raises(jdl.Error, match=f"got {len(hypotheses)} hypotheses and"):
            score(hypotheses, references)
