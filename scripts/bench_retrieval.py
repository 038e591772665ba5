"""Other methods beside `quran_retrieval`: BM25, MiniLM, cross-language latent semantic indexing.

It needs `jdl data fetch quran` and `jdl data fetch minilm`. BM25 (Robertson et al., 1994) finds
only words that both languages spell alike, and MiniLM was trained on English. Latent semantic
indexing across languages (Dumais et al., 1997) learns from the training pairs, as two towers do: a
singular value decomposition of TF-IDF vectors of each pair, both languages side by side. A text of
one language is projected by its own half. The number of dimensions is chosen on validation pairs.
"""

from typing import Any

import jax
import numpy as np
import scipy.sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from tokenizers import BertWordPieceTokenizer

import jdl
from jdl.data import dataset_folder
from jdl.metrics.retrieval import unit

Pair = tuple[str, str]
DIMENSIONS = (100, 200, 300)
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


def minilm(texts: list[str]) -> np.ndarray:
    """The embeddings of all-MiniLM-L6-v2: the mean of the token vectors."""
    folder = dataset_folder("minilm")
    tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(texts)
    tokens = np.asarray([one.ids for one in encoded])
    mask = np.asarray([one.attention_mask for one in encoded]) > 0

    model = jdl.weights.from_pretrained(folder)
    variables = model.init(jax.random.key(0), tokens[:1])

    @jax.jit
    def encode(tokens: jax.Array, mask: jax.Array) -> jax.Array:
        return model.apply(variables, tokens, mask=mask)

    return np.concatenate(
        [encode(tokens[n : n + 61], mask[n : n + 61]) for n in range(0, len(tokens), 61)]
    )


def indexed(
    train: list[Pair], splits: list[list[Pair]], dimensions: int
) -> list[tuple[float, float, float]]:
    """The scores of each split by latent semantic indexing of the training pairs."""
    tfidf = [TfidfVectorizer(sublinear_tf=True).fit([p[n] for p in train]) for n in (0, 1)]

    def vectors(pairs: list[Pair]) -> list[Any]:
        return [tfidf[n].transform([pair[n] for pair in pairs]) for n in (0, 1)]

    svd = TruncatedSVD(dimensions, random_state=0).fit(scipy.sparse.hstack(vectors(train)))
    halves = np.split(svd.components_.T, [len(tfidf[0].vocabulary_)])
    found = []
    for pairs in splits:
        codes = [x @ half for x, half in zip(vectors(pairs), halves, strict=True)]
        found.append(scores(unit(codes[0]) @ unit(codes[1]).T))
    return found


def main() -> None:
    """Prints recall@1, recall@5 and MRR of the test pairs."""
    train, valid, test = jdl.data.translation("en", "fr")
    shown = "recall@1 {:.3f}, recall@5 {:.3f}, MRR {:.3f}"
    english, french = [pair[0] for pair in test], [pair[1] for pair in test]
    print("BM25:", shown.format(*scores(bm25(english, french))))
    print("MiniLM:", shown.format(*scores(unit(minilm(english)) @ unit(minilm(french)).T)))
    found = [(indexed(train, [valid, test], n), n) for n in DIMENSIONS]
    (of_valid, of_test), dimensions = max(found, key=lambda each: each[0][0])
    print(f"LSI, {dimensions} dimensions:", shown.format(*of_test))
    print("  the validation pairs:", shown.format(*of_valid))


if __name__ == "__main__":
    main()
