"""A simple method beside `quran_place`: logistic regression on TF-IDF of words, by scikit-learn.

`scripts/bench places 1000` trains on the verses that `quran_minilm` has at seed 0. Whether pairs of
words count, and the regularization, are chosen by the accuracy on the validation verses.
"""

import sys
from itertools import product

import numpy as np
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import jdl
from jdl.data.splits import random_rows

STRENGTHS = (1, 3, 10, 30, 100)  # inverses of the regularization


def main() -> None:
    """Chooses on the validation verses, and prints the accuracy on the test verses."""
    train, valid, test = jdl.data.quran_places()
    total = len(train["text"])
    share = int(sys.argv[1]) / total if len(sys.argv) > 1 else 1.0
    rows = random_rows(total, (share,), 0)[0]
    train = {name: [column[row] for row in rows] for name, column in train.items()}
    found = []
    for words, strength in product((1, 2), STRENGTHS):
        tfidf = TfidfVectorizer(ngram_range=(1, words), sublinear_tf=True, min_df=2)
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(tfidf.fit_transform(train["text"]), train["label"])
        scores = [model.score(tfidf.transform(p["text"]), p["label"]) for p in (valid, test)]
        found.append((*scores, f"{words} words, C = {strength}"))
    valid_score, test_score, chosen = max(found)
    most = np.mean([label == "meccan" for label in test["label"]])
    print(f"scikit-learn {sklearn.__version__}, {chosen}: validation {valid_score:.4f}")
    print(f"test {test_score:.4f}; always Mecca: {most:.4f}")


if __name__ == "__main__":
    main()
