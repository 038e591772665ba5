"""Metrics of a clustering against known classes, as scikit-learn and SciPy compute them."""

from __future__ import annotations

import numpy as np

from jdl.errors import Error


def cluster_metrics(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Clustering accuracy, NMI and ARI of `clusters` (N,) against `labels` (N,), whole numbers.

    None depends on how the clusters are numbered. Accuracy is the share of rows that are right
    under the best one-to-one mapping from clusters to labels (Hungarian algorithm; Kuhn, 1955);
    NMI is the normalized mutual information, ARI the adjusted Rand index (Hubert and Arabie,
    1985).
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn import metrics  # a second of import that only the end of a run needs

    if labels.shape != clusters.shape or labels.ndim != 1 or not len(labels):
        raise Error(
            "Each row needs one label and one cluster; given are labels of shape "
            f"{labels.shape} and clusters of shape {clusters.shape}."
        )
    counts = metrics.cluster.contingency_matrix(labels, clusters)
    right = counts[linear_sum_assignment(-counts)].sum()
    return {
        "accuracy": float(right / len(labels)),
        "nmi": float(metrics.normalized_mutual_info_score(labels, clusters)),
        "ari": float(metrics.adjusted_rand_score(labels, clusters)),
    }
