"""Simple methods beside `quran_retrieval`: BM25, and cross-language latent semantic indexing.

BM25 (Robertson et al., 1994) finds only words that both languages spell alike. Latent semantic
indexing across languages (Dumais et al., 1997) learns from the training pairs, as two towers do: a
singular value decomposition of TF-IDF vectors of each pair, both languages side by side. A text of
one language is projected by its own half. The number of dimensions is chosen on validation pairs.
"""

import numpy as np
import scipy.sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

import jdl

DIMENSIONS = (100, 200, 300, 400)
K1, B = 1.2, 0.75  # of BM25


def scores(similarity: np.ndarray) -> tuple[float, float, float]:
    """Recall@1, recall@5 and MRR of a square matrix: its diagonal are the right documents."""
    rank = (similarity >= np.diag(similarity)[:, None]).sum(1)
    return (rank <= 1).mean(), (rank <= 5).mean(), (1 / rank).mean()


def bm25(queries: list[str], documents: list[str]) -> np.ndarray:
    """The BM25 score of each document for each query."""
    words = CountVectorizer()
    counts = words.fit_transform(documents).toarray().astype(float)
    asked = words.transform(queries).toarray() > 0
    containing = (counts > 0).sum(0)
    inverse = np.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
    length = counts.sum(1, keepdims=True)
    weight = inverse * counts * (K1 + 1) / (counts + K1 * (1 - B + B * length / length.mean()))
    return asked @ weight.T


def main() -> None:
    """Prints recall@1, recall@5 and MRR of the test pairs."""
    train, valid, test = jdl.data.translation("en", "fr")
    shown = "recall@1 {:.3f}, recall@5 {:.3f}, MRR {:.3f}"
    print("BM25:", shown.format(*scores(bm25(*map(list, zip(*test, strict=True))))))
    tfidf = [TfidfVectorizer(sublinear_tf=True).fit(texts) for texts in zip(*train, strict=True)]

    def vectors(pairs: list[tuple[str, str]]) -> list[scipy.sparse.csr_matrix]:
        return [t.transform(texts) for t, texts in zip(tfidf, zip(*pairs, strict=True), strict=True)]

    found = []
    for dimensions in DIMENSIONS:
        svd = TruncatedSVD(dimensions, random_state=0).fit(scipy.sparse.hstack(vectors(train)))
        halves = np.split(svd.components_.T, [len(tfidf[0].vocabulary_)])
        for_split = []
        for pairs in (valid, test):
            codes = [x @ half for x, half in zip(vectors(pairs), halves, strict=True)]
            unit = [code / np.linalg.norm(code, axis=1, keepdims=True) for code in codes]
            for_split.append(scores(unit[0] @ unit[1].T))
        found.append((*for_split, dimensions))
    valid_scores, test_scores, dimensions = max(found)
    print(f"LSI, {dimensions} dimensions, validation:", shown.format(*valid_scores))
    print(f"LSI, {dimensions} dimensions, test:", shown.format(*test_scores))


if __name__ == "__main__":
    main()
