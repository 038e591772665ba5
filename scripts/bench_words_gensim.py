"""Skip-gram by gensim, for `scripts/bench words`: prints its words and processor seconds.

A process of its own, as gensim is no dependency: python bench_words_gensim.py TEXTS EPOCHS VECTORS.
TEXTS has a text a line; the words and their vectors are written to VECTORS (.npz).
"""

import sys
import time
from pathlib import Path

import numpy as np
from gensim.models import Word2Vec

LONGEST = 1_000  # words of a sentence; gensim cuts those above 10,000


def main() -> None:
    """Trains with one worker, and the settings of `stdlib_words`."""
    texts, epochs, vectors = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    lines = [line.split() for line in Path(texts).read_text().splitlines()]
    parts = [line[n : n + LONGEST] for line in lines for n in range(0, len(line), LONGEST)]
    model = Word2Vec(
        vector_size=100, window=5, min_count=10, sg=1, negative=5, sample=1e-3, workers=1, seed=0
    )
    model.build_vocab(parts)
    began = time.process_time()
    words, _ = model.train(parts, total_examples=len(parts), epochs=epochs)
    print(words, time.process_time() - began)
    np.savez(vectors, words=np.asarray(model.wv.index_to_key), vectors=model.wv.vectors)


if __name__ == "__main__":
    main()
