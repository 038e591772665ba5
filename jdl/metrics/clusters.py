"""Clustering metrics against known classes, by scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np

from jdl.errors import Error


def cluster_metrics(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Clustering accuracy, NMI and ARI of `clusters` (N,) against `labels` (N,), whole numbers.

    They do not depend on how the clusters are numbered. Accuracy is the share of correct rows
    under the best one-to-one mapping from clusters to labels (Hungarian algorithm; Kuhn, 1955);
    NMI is the normalized mutual information, ARI the adjusted Rand index (Hubert and Arabie,
    1985).
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn import (
        metrics,
    )  # imported here: it takes a second, and only scores at the end need it

    if labels.shape != clusters.shape or labels.ndim != 1 or not len(labels):
        raise Error(
            "Each row needs one label and one cluster, and there must be a row; got labels of "
            f"shape {labels.shape} and clusters of shape {clusters.shape}."
        )
    counts = metrics.cluster.contingency_matrix(labels, clusters)
    right = counts[linear_sum_assignment(-counts)].sum()
    return {
        "accuracy": float(right / len(labels)),
        "nmi": float(metrics.normalized_mutual_info_score(labels, clusters)),
        "ari": float(metrics.adjusted_rand_score(labels, clusters)),
    }
