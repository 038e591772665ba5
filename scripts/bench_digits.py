"""Simple methods on the digits: k-means, beside `digits_clusters`; label propagation and spreading.

The latter beside `digits_gcn`, of the same few labels and the same test nodes.

Label propagation (Zhu and Ghahramani, 2002) and spreading (Zhou et al., 2004) by scikit-learn, with
its kernel of nearest neighbours; how many, and how much is taken from them, is chosen by the
accuracy on the validation nodes.
"""

import platform
import warnings
from functools import partial

import numpy as np
import sklearn
from sklearn.cluster import KMeans
from sklearn.semi_supervised import LabelPropagation, LabelSpreading

import jdl
from jdl.metrics import cluster_metrics

SEEDS = range(10)
NEIGHBOURS = (5, 7, 10, 15)
ALPHAS = (0.2, 0.5, 0.8, 0.99)


def accuracies(model: object, x: np.ndarray, known: np.ndarray, *asked: np.ndarray) -> list[float]:
    """The accuracy on the nodes of each of `asked`, whose labels are -1 at other nodes."""
    said = model.fit(x, known).transduction_
    return [float((said == y)[y >= 0].mean()) for y in asked]


def main() -> None:
    """Chooses for each of the two methods, and prints what it reaches."""
    train, test = jdl.data.digits()
    graph = jdl.data.knn_graph(**(train + test).columns, k=1)
    splits = [
        [part.take(np.arange(1))["y"][0] for part in graph.split_nodes(10, 500, 1000, seed)]
        for seed in SEEDS
    ]
    spreading = {
        f"{k} neighbours, alpha {a}": partial(
            LabelSpreading, "knn", n_neighbors=k, alpha=a, max_iter=1000
        )
        for k in NEIGHBOURS
        for a in ALPHAS
    }
    propagation = {
        f"{k} neighbours": partial(LabelPropagation, "knn", n_neighbors=k, max_iter=5000)
        for k in NEIGHBOURS
    }
    said = KMeans(10, n_init=20, random_state=0).fit_predict(graph.x.reshape(len(graph), -1))
    print(
        "k-means of pixels ",
        *(f"{name} {value:.4f}" for name, value in cluster_metrics(graph.y, said).items()),
    )
    print(
        f"Python {platform.python_version()}, scikit-learn {sklearn.__version__}: {len(SEEDS)} "
        "splits"
    )
    for name, settings in (("label spreading", spreading), ("label propagation", propagation)):
        found = {
            setting: np.array([accuracies(make(), graph.x, *split) for split in splits])
            for setting, make in settings.items()
        }
        best = max(found, key=lambda setting: found[setting][:, 0].mean())
        valid, test = found[best].mean(0)
        print(
            f"{name:<18} {best:<30} valid {valid:.4f}  test {test:.4f} (sd "
            f"{found[best][:, 1].std(ddof=1):.4f})"
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
    main()
