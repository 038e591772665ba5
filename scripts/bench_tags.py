"""The baseline of `stdlib_tags`: each word gets the tag that it has most often in training."""

import platform

import jax.numpy as jnp
import numpy as np

import jdl
from jdl.data.tagged_text import SHAPES
from jdl.metrics import SpanF1, scalars

train, _, test = jdl.data.stdlib_tags()
known, columns = train.columns, test.columns
counts = np.zeros((len(train.vocabulary), len(train.labels)), int)
real = known["y"] >= 0
np.add.at(counts, (known["x"][real], known["y"][real]), 1)
predicted, real = counts.argmax(1)[columns["x"]], columns["y"] >= 0
span = SpanF1.of(*map(jnp.asarray, (predicted, columns["y"].clip(0))), train.labels, real)
words = columns["x"][real]
print(
    f"Python {platform.python_version()}: {len(train):,} lines to learn from, {len(test):,} to be "
    f"judged by, with {len(words):,} words, {(words <= len(SHAPES)).mean():.1%} of them not in the "
    f"vocabulary\nmost frequent tag of each word: accuracy "
    f"{(predicted == columns['y'])[real].mean():.4f}"
)
for name, value in scalars({"span": span}).items():
    print(f"{name:<24} {value:.4f}")
