"""Writes tests/golden/seqeval.npz: random BIO tags, and seqeval's precision, recall and F1 of them.

Many spans begin with I-. It needs seqeval, which the tests do not:

    python scripts/golden_seqeval.py
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from seqeval.metrics import classification_report

TAGS = ("B-a", "B-b", "B-c", "I-a", "I-b", "I-c", "O")
ROWS, STEPS = 120, 9

rng = np.random.default_rng(0)
shape = (ROWS, STEPS)
true = rng.integers(0, len(TAGS), shape, np.int8)
predicted = np.where(rng.random(shape) < 0.7, true, rng.integers(0, len(TAGS), shape, np.int8))
length = rng.integers(0, STEPS + 1, ROWS, np.int8)
names = (
    [[TAGS[k] for k in row[:n]] for row, n in zip(rows, length, strict=True)]
    for rows in (true, predicted)
)
report = classification_report(*names, output_dict=True)
scores = {
    name: [report[name][score] for score in ("precision", "recall", "f1-score")]
    for name in ("a", "b", "c", "micro avg")
}
path = Path(__file__).parents[1] / "tests" / "golden" / "seqeval.npz"
np.savez_compressed(path, tags=TAGS, true=true, predicted=predicted, length=length, **scores)
print(f"{path.name}: {path.stat().st_size:,} bytes, seqeval {version('seqeval')}")
