"""Methods beside the experiments of anomaly detection: isolation forest, neighbours, others.

scripts/bench anomalies [digits] [electricity] [garments]: on the same rows; the others are not
tuned. Needs `jdl data fetch elecdemand` and Fashion-MNIST.
"""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

import jdl
from jdl.learners import jit_learner, with_data
from jdl.models.autoencoder import Autoencoder
from jdl.objectives import autoencode, detect_anomalies, map_rows, predict_all
from jdl.train.compile_cache import quiet_libraries, use_compilation_cache
from jdl.train.loop import train

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import digits_anomaly
import electricity_anomaly
import garment_anomaly

KINDS = ("spike", "flat", "shift", "amplitude")
CLASSES = (3, 5, 6, 7, 8, 9)  # of the garments: settings were chosen with the others unseen
METHODS = ("autoencode", "deep_svdd", "normalizing_flow")
Measures = tuple[float, float]  # AUROC, AUPRC


def trained_scores(run: jdl.Run, learner: jdl.Learner) -> np.ndarray:
    """The anomaly scores of the test rows, after training without a folder."""
    compiled = jit_learner(with_data(learner, run.train))
    state = compiled.init(jax.random.key(run.config.seed), run.train[0])
    state = train(compiled, run.train, state, run.config.steps)
    variables = learner.eval_variables(state)
    return predict_all(learner.objective, variables, run.test)["anomaly_score"]


def rows_of(data: jdl.data.Dataset) -> np.ndarray:
    """All rows x as the models get them, flattened."""
    x = map_rows(lambda _, batch: {"x": batch["x"]}, {}, data.batches(1_000))["x"]
    return x.reshape(len(x), -1)


def forest_scores(normal: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The scores of an isolation forest (Liu et al., 2008) of scikit-learn's defaults."""
    return -IsolationForest(random_state=0).fit(normal).score_samples(asked)


def neighbor_scores(normal: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The mean distance to the five nearest neighbors among the training rows."""
    return NearestNeighbors(n_neighbors=5).fit(normal).kneighbors(asked)[0].mean(1)


def electricity() -> None:
    """AUROC and AUPRC of each method, and its AUROC by kind of anomaly."""
    run = electricity_anomaly.run(electricity_anomaly.Config(name="electricity_anomaly"))
    flow = electricity_anomaly.run(replace(run.config, method="normalizing_flow"))
    normal, asked = (rows_of(data.dataset) for data in (run.train, run.test))
    reconstruction = detect_anomalies(autoencode(Autoencoder((48, 4), 8, hidden=(128,)), noise=0.2))
    scores = {
        "deep SVDD": trained_scores(run, run.learner),
        "autoencoder": trained_scores(run, jdl.descent(reconstruction, run.learner.optimizer)),
        "flow": trained_scores(flow, flow.learner),
        "5-NN": neighbor_scores(normal, asked),
        "isolation forest": forest_scores(normal, asked),
    }
    y, kind = (run.test.dataset.column(name) for name in ("y", "kind"))
    for name, score in scores.items():
        auroc, auprc = roc_auc_score(y, score), average_precision_score(y, score)
        line = f"{name:<16}  AUROC {auroc:.3f}  AUPRC {auprc:.3f}"
        for number, word in enumerate(KINDS, 1):
            rows = (kind == 0) | (kind == number)
            line += f"  {word} {roc_auc_score(y[rows], score[rows]):.3f}"
        print(line)


def digits() -> None:
    """AUROC and AUPRC where each digit is once the one that the training never shows."""
    found = []
    for unseen in range(10):
        run = digits_anomaly.run(digits_anomaly.Config(name="digits_anomaly", unseen=unseen))
        pixels = [rows_of(data.dataset) for data in (run.train, run.test)]
        scores = {
            "autoencoder": trained_scores(run, run.learner),
            "isolation forest": forest_scores(*pixels),
            "5-NN": neighbor_scores(*pixels),
        }
        found.append(ranked(f"digit {unseen}", scores, run.test.dataset.column("y")))
    print_means(found)


def garments() -> None:
    """AUROC and AUPRC where each class is once the one that the training never shows."""
    found = []
    for unseen in CLASSES:
        scores = {}
        for method in METHODS:
            c = garment_anomaly.Config(name="garment_anomaly", method=method, unseen=unseen)
            run = garment_anomaly.run(c)
            scores[method] = trained_scores(run, run.learner)
        seen, asked = (data.dataset for data in (run.train, run.test))
        pixels = [data.column("x").reshape(len(data), -1) for data in (seen, asked)]
        components = [rows_of(data) for data in (seen, asked)]
        scores["isolation forest, pixels"] = forest_scores(*pixels)
        scores["isolation forest"] = forest_scores(*components)
        scores["5-NN"] = neighbor_scores(*components)
        found.append(ranked(f"class {unseen}", scores, asked.column("y")))
    print_means(found)


def ranked(unseen: str, scores: dict[str, np.ndarray], y: np.ndarray) -> dict[str, Measures]:
    """AUROC and AUPRC by method, which it prints."""
    found = {}
    for name, score in scores.items():
        found[name] = auroc, auprc = roc_auc_score(y, score), average_precision_score(y, score)
        print(f"{unseen}  {name:<24}  AUROC {auroc:.3f}  AUPRC {auprc:.3f}", flush=True)
    return found


def print_means(found: list[dict[str, Measures]]) -> None:
    """Prints the mean and the least of each method over the classes that were unseen."""
    for name in found[0]:
        pairs = [of_class[name] for of_class in found]
        (auroc, auprc), least = np.mean(pairs, 0), np.min(pairs, 0)[0]
        print(f"{name:<24}  AUROC {auroc:.3f} (least {least:.3f})  AUPRC {auprc:.3f}")


def main() -> None:
    """Measures the parts that the command line names, or all."""
    quiet_libraries()
    use_compilation_cache()
    parts = {"digits": digits, "electricity": electricity, "garments": garments}
    for name in sys.argv[1:] or parts:
        print(name)
        parts[name]()


if __name__ == "__main__":
    main()
