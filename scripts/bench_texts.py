"""Labelled texts: jdl.data.labelled_text beside Hugging Face's datasets, where that is installed.

Paragraphs of Python's standard library, a JSON line each, become padded tokens and lengths in NumPy
arrays, by one BPE tokenizer. Both take turns; printed are the medians of the seconds and of the
processor seconds, and the ratio to jdl.

    scripts/bench texts 20000
"""

import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import jdl
from jdl.data.corpus import stdlib

VOCABULARY, LENGTH, ROUNDS = 4_096, 128, 3


def write_texts(path: Path, count: int) -> list[str]:
    """JSON lines with a paragraph and a label each; the paragraphs."""
    paragraphs = [part for text in stdlib() for part in text.split("\n\n") if part.strip()]
    texts = paragraphs[:count]
    lines = [json.dumps({"text": t, "label": str(len(t) % 3)}) for t in texts]
    path.write_text("\n".join(lines) + "\n")
    return texts


def ours(path: Path, tokenizer: jdl.data.SubwordTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (N, T) and lengths (N,) by jdl."""
    data = jdl.data.labelled_text(path, tokenizer=tokenizer, max_length=LENGTH).columns
    return data["x"], data["length"]


def theirs(path: Path, tokenizer: jdl.data.SubwordTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The same by `load_dataset` and a batched `map`, without their cache."""
    import datasets

    def encode(rows: dict[str, list[str]]) -> dict[str, list[object]]:
        encoded = [e[: LENGTH - 1] for e in tokenizer.encode_batch(rows["text"])]
        ids = np.zeros((len(encoded), LENGTH), np.int32)
        for row, tokens in enumerate(encoded):
            ids[row, : len(tokens) + 1] = [*tokens, tokenizer.eos_id]
        return {"x": list(ids), "length": [len(tokens) + 1 for tokens in encoded]}

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
        data = data.map(encode, batched=True).with_format("numpy")
        return np.asarray(data["x"][:]), np.asarray(data["length"][:])


def main() -> None:
    """Writes the texts, trains the tokenizer, measures both in turn, and prints."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    cases = {"jdl.data.labelled_text": ours}
    if importlib.util.find_spec("datasets"):
        cases["datasets, map"] = theirs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        texts = write_texts(path, count)
        tokenizer = jdl.data.train_bpe(texts[:2_000], VOCABULARY)
        found = [case(path, tokenizer) for case in cases.values()]  # and warms up
        for tokens, lengths in found:
            assert np.array_equal(lengths, found[0][1])
            assert np.array_equal(tokens[:, : found[0][0].shape[1]], found[0][0])
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, case in cases.items():
                began, before = time.perf_counter(), sum(os.times()[:4])
                case(path, tokenizer)
                seconds[name].append((time.perf_counter() - began, sum(os.times()[:4]) - before))
    wall, processor = (
        {name: statistics.median(column) for name, column in columns.items()}
        for columns in (
            {name: [pair[n] for pair in pairs] for name, pairs in seconds.items()} for n in (0, 1)
        )
    )
    print(f"{len(texts)} texts: seconds, processor seconds, ratio of the seconds to jdl's")
    for name in cases:
        ratio = wall[name] / wall["jdl.data.labelled_text"]
        print(f"{name:<24}{wall[name]:>8.2f}{processor[name]:>8.2f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
