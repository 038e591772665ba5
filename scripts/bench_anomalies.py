"""Methods beside `electricity_anomaly`: isolation forest, nearest neighbours, an autoencoder.

scripts/bench anomalies: on the same rows; these are not tuned. Needs `jdl data fetch elecdemand`.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

import jdl
from jdl.learners import jit_learner, with_data
from jdl.models.autoencoder import Autoencoder
from jdl.objectives import autoencode, predict_all
from jdl.train.compile_cache import quiet_libraries, use_compilation_cache
from jdl.train.loop import train

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import electricity_anomaly

KINDS = ("spike", "flat", "shift", "amplitude")


def trained_scores(run: jdl.Run, learner: jdl.Learner, column: str) -> np.ndarray:
    """The column of the predictions for the test rows, after training without a folder."""
    compiled = jit_learner(with_data(learner, run.train))
    state = compiled.init(jax.random.key(run.config.seed), run.train[0])
    state = train(compiled, run.train, state, run.config.steps)
    variables = learner.eval_variables(state)
    return predict_all(learner.objective, variables, run.test)[column]


def main() -> None:
    """AUROC and AUPRC of each method, and its AUROC by kind of anomaly."""
    quiet_libraries()
    use_compilation_cache()
    run = electricity_anomaly.run(electricity_anomaly.Config(name="electricity_anomaly"))
    columns, test = (data.dataset.columns for data in (run.train, run.test))
    normal, asked = (x.reshape(len(x), -1) for x in (columns["x"], test["x"]))
    reconstruction = jdl.descent(
        autoencode(Autoencoder((48, 4), 8, hidden=(128,)), noise=0.2), run.learner.optimizer
    )
    forest = IsolationForest(random_state=0).fit(normal)
    scores = {
        "deep SVDD": trained_scores(run, run.learner, "distance"),
        "autoencoder": trained_scores(run, reconstruction, "reconstruction_error"),
        "5-NN": NearestNeighbors(n_neighbors=5).fit(normal).kneighbors(asked)[0].mean(1),
        "isolation forest": -forest.score_samples(asked),
    }
    y, kind = test["y"], test["kind"]
    for name, score in scores.items():
        auroc, auprc = roc_auc_score(y, score), average_precision_score(y, score)
        line = f"{name:<16}  AUROC {auroc:.3f}  AUPRC {auprc:.3f}"
        for number, word in enumerate(KINDS, 1):
            rows = (kind == 0) | (kind == number)
            line += f"  {word} {roc_auc_score(y[rows], score[rows]):.3f}"
        print(line)


if __name__ == "__main__":
    main()
