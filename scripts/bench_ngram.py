"""Simple models of the corpus of `stdlib_gpt`: bits per byte of a 5-gram model and of xz.

The 5-gram model of bytes is interpolated Kneser-Ney (Chen and Goodman, 1999), with one discount an
order.
"""

import lzma
import platform

import numpy as np

import jdl

ORDER, BASE = 5, 258


def grams(tokens: np.ndarray, order: int) -> np.ndarray:
    """Each window of `order` tokens as one number to the base `BASE`."""
    wide = tokens.astype(np.uint64)
    return sum(
        wide[n : len(wide) - order + 1 + n] * np.uint64(BASE) ** np.uint64(order - 1 - n)
        for n in range(order)
    )


class Level:
    """The counts of one order, with discounting: max(c - d, 0) / c(h), and the backoff weight."""

    def __init__(self, kinds: np.ndarray, counts: np.ndarray) -> None:
        self.kinds, self.counts = kinds, counts
        ones, twos = (counts == 1).sum(), (counts == 2).sum()
        self.discount = ones / (ones + 2 * twos)
        self.histories, starts = np.unique(kinds // np.uint64(BASE), return_index=True)
        self.totals = np.add.reduceat(counts, starts)
        self.followers = np.diff([*starts, len(kinds)])

    def probability(self, asked: np.ndarray, below: np.ndarray) -> np.ndarray:
        """Of the last token of each gram, given those before it and the order below's."""
        count = found(self.kinds, self.counts, asked)
        total = found(self.histories, self.totals, asked // np.uint64(BASE))
        followers = found(self.histories, self.followers, asked // np.uint64(BASE))
        with np.errstate(divide="ignore", invalid="ignore"):
            here = (
                np.maximum(count - self.discount, 0) / total
                + self.discount * followers / total * below
            )
        return np.where(total > 0, here, below)


def found(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The value of each asked key, 0 where it is not there."""
    places = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
    return np.where(keys[places] == asked, values[places], 0)


def kneser_ney(train: np.ndarray, test: np.ndarray) -> float:
    """The mean bits of a token of `test`."""
    kinds, counts = np.unique(grams(train, ORDER), return_counts=True)
    levels = [Level(kinds, counts)]
    for order in range(
        ORDER - 1, 0, -1
    ):  # below the highest order, counted are the different tokens before a gram
        kinds, counts = np.unique(kinds % np.uint64(BASE) ** np.uint64(order), return_counts=True)
        levels.append(Level(kinds, counts))
    asked = grams(test, ORDER)
    probability = np.full(len(asked), 1 / BASE)
    for order, level in enumerate(reversed(levels), 1):
        probability = level.probability(asked % np.uint64(BASE) ** np.uint64(order), probability)
    return float(-np.log2(probability).mean())


def xz(*parts: np.ndarray) -> int:
    """The compressed size in bits."""
    content = b"".join(jdl.data.ByteTokenizer().decode(part.tolist()).encode() for part in parts)
    return 8 * len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


train, _, test = (part.tokens for part in jdl.data.text())
size = (test < 256).sum()
print(
    f"Python {platform.python_version()}: {len(train):,} tokens to learn from, {size:,} bytes to "
    "be judged by"
)
print(
    f"5-gram, Kneser-Ney                 {kneser_ney(train, test) * len(test) / size:.3f} bits "
    "per byte"
)
print(f"xz -9e, of the test part alone     {xz(test) / size:.3f}")
print(f"xz -9e, what it adds to the rest   {(xz(train, test) - xz(train)) / size:.3f}")
