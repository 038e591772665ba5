"""Word vectors: `stdlib_words` beside gensim's skip-gram, on the same texts and settings.

Both take turns; printed are words a second of processor time, compilation left out, in which other
work on the machine hardly counts, and the share of right analogies: key - keys + files is file, of
all pairs of a word and its plural. Words are counted after subsampling. gensim runs with one worker
in the Python that the variable GENSIM_PYTHON names.

    GENSIM_PYTHON=python scripts/bench words 4 2  # epochs, rounds
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

import jdl
from jdl.learners import jit_learner, with_data
from jdl.train.compile_cache import quiet_libraries, use_compilation_cache
from jdl.train.loop import train

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import stdlib_words


def analogies(words: list[str], vectors: np.ndarray) -> float:
    """The share of analogies of plurals whose answer is the nearest word, the three left out."""
    index = {word: n for n, word in enumerate(words)}
    pairs = [(index[w], index[f"{w}s"]) for w in words if f"{w}s" in index and len(w) > 2]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    one, many = (np.asarray(ends) for ends in zip(*pairs, strict=True))
    right = total = 0
    for n in range(len(pairs)):
        cosines = (unit[one] - unit[many] + unit[many[n]]) @ unit.T
        rows = np.arange(len(pairs))
        for own in (one, many, np.full(len(pairs), many[n])):
            cosines[rows, own] = -np.inf
        right += int((cosines.argmax(1) == one[n])[rows != n].sum())
        total += len(pairs) - 1
    return right / total


def ours(epochs: int) -> tuple[float, float]:
    """Words a second of processor time, and the share of right analogies."""
    config = stdlib_words.Config(name="stdlib_words")
    data = stdlib_words.run(config).train.dataset
    steps = round(epochs * len(data) / config.batch)
    run = stdlib_words.run(replace(config, steps=2 + steps))
    compiled = jit_learner(with_data(run.learner, run.train))
    state = compiled.init(jax.random.key(0), run.train[0])
    state = train(compiled, run.train, state, 2)
    jax.block_until_ready(state.params)
    began = time.process_time()
    state = train(compiled, run.train, state, 2 + steps)
    vectors = np.asarray(state.params["vectors"])
    seconds = time.process_time() - began
    words = data.columns["length"].mean() * run.train.batch_size * steps
    return words / seconds, analogies(list(data.labels), vectors)


def gensim(epochs: int) -> tuple[float, float]:
    """The same of gensim."""
    with tempfile.TemporaryDirectory() as folder:
        texts, vectors = Path(folder) / "texts.txt", Path(folder) / "vectors.npz"
        texts.write_text("\n".join(" ".join(words) for words in jdl.data.stdlib_words()))
        script = Path(__file__).with_name("bench_words_gensim.py")
        command = [os.environ["GENSIM_PYTHON"], script, texts, str(epochs), vectors]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        words, seconds = map(float, done.stdout.split())
        found = np.load(vectors)
        return words / seconds, analogies(found["words"].tolist(), found["vectors"])


def main() -> None:
    """Prints the medians of both."""
    quiet_libraries()
    use_compilation_cache()
    epochs, rounds = int(sys.argv[1]), int(sys.argv[2])
    results = [(gensim(epochs), ours(epochs)) for _ in range(rounds)]
    for name, of_one in zip(("gensim", "jdl"), zip(*results, strict=True), strict=True):
        rate, right = (statistics.median(values) for values in zip(*of_one, strict=True))
        print(f"{name:<8} {rate:>9,.0f} words a CPU second, {right:.1%} of analogies")


if __name__ == "__main__":
    main()
