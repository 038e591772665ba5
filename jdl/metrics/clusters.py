"""How well clusters agree with known classes, as scikit-learn and SciPy compute it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from jdl.types import Loader, Error, Objective, Variables


def agreement(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Accuracy, NMI and ARI of whole numbers `clusters` (N,) beside `labels` (N,), whatever the clusters are called.

    Accuracy is the share of rows that are right once each cluster is called by one label, in the best way (Kuhn, 1955);
    NMI the normalised mutual information, and ARI the adjusted Rand index (Hubert and Arabie, 1985).
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn import metrics  # a second of import that only the end of a run needs

    if labels.shape != clusters.shape or labels.ndim != 1 or not len(labels):
        raise Error(
            f"A cluster and a label a row are needed; given: {clusters.shape} and {labels.shape}."
        )
    counts = metrics.cluster.contingency_matrix(labels, clusters)
    right = counts[linear_sum_assignment(-counts)].sum()
    return {
        "accuracy": float(right / len(labels)),
        "nmi": float(metrics.normalized_mutual_info_score(labels, clusters)),
        "ari": float(metrics.adjusted_rand_score(labels, clusters)),
    }


def scores(objective: Objective, data: Loader) -> Callable[[Variables], dict[str, float]]:
    """For `Run(score=...)`: how well the clusters that the objective predicts agree with the labels y of the data."""
    predict = objective.predict
    if predict is None:
        raise Error("Only an objective that predicts clusters can be scored by them.")

    def score(variables: Variables) -> dict[str, float]:
        look, found = jax.jit(predict), []
        for n in range(len(data)):
            batch = data[n]
            said, mask = look(variables, batch), np.asarray(batch["mask"])
            found.append([np.asarray(column)[mask] for column in (batch["y"], said["cluster"])])
        labels, clusters = (np.concatenate(column) for column in zip(*found, strict=True))
        return agreement(labels, clusters)

    return score
