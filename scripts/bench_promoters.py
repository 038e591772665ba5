"""Methods beside `promoters_cnn`: a scan with the true motifs, and logistic regression on 6-mers.

scripts/bench promoters: on the same rows. The scan is not learned: it knows both motifs and the
spacers, but not how the other sequences are made, so it is no upper bound.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import jdl
from jdl.data.promoters import MOTIFS, SPACERS

K = 6  # bases of a word


def scan_for_both_boxes(x: np.ndarray) -> np.ndarray:
    """How much likelier x (N, T) is a promoter than bases drawn alike, averaged over places."""
    windows = np.lib.stride_tricks.sliding_window_view(x - 1, K, 1)
    first, second = (np.log(4 * pwm)[np.arange(K), windows].sum(-1) for pwm in MOTIFS.values())
    distances = [K + spacer for spacer in SPACERS]
    both = [first[:, :-distance] + second[:, distance:] for distance in distances]
    return np.log(np.exp(np.concatenate(both, 1)).mean(1))


def word_counts(x: np.ndarray) -> np.ndarray:
    """How often each word of 6 bases is in each row, (N, 4096)."""
    windows = np.lib.stride_tricks.sliding_window_view(x - 1, K, 1)
    words = windows @ 4 ** np.arange(K)
    return np.stack([np.bincount(row, minlength=4**K) for row in words]).astype(np.float32)


def main() -> None:
    """AUROC of each method."""
    train, test = (part.columns for part in jdl.data.promoters())
    regression = LogisticRegression(C=0.01, max_iter=300)
    regression.fit(word_counts(train["x"]), train["y"])
    scores = {
        "a scan with the true motifs": scan_for_both_boxes(test["x"]),
        "logistic regression, 6-mers": regression.decision_function(word_counts(test["x"])),
    }
    for name, score in scores.items():
        print(f"{name:<32} AUROC {roc_auc_score(test['y'], score):.4f}")


if __name__ == "__main__":
    main()
