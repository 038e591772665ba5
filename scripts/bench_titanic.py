"""Survival on the Titanic: `experiments/titanic.py` beside scikit-learn, on the same splits.

Logistic regression and histogram gradient boosting, with scikit-learn's defaults, read the encoded
columns of jdl; so does the MLP. None is tuned, and none uses the validation rows.
"""

import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import jdl
from jdl.objectives.predict import predict_all
from jdl.train.compile_cache import quiet_libraries, use_compilation_cache

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import titanic

SEEDS = range(10)


def jdl_mlp(seed: int, root: Path) -> np.ndarray:
    """The probabilities of survival that the experiment gives to the test rows."""
    run = titanic.run(titanic.Config(name="titanic", seed=seed))
    result = jdl.fit(run, jdl.Options(root=root, eval_every=0, quiet=True))
    variables = run.learner.eval_variables(result.state)
    return predict_all(run.learner.objective, variables, run.test)["probability"]


def main() -> None:
    """Prints accuracy and ROC AUC of each method: mean and standard deviation over the splits."""
    quiet_libraries()
    use_compilation_cache()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as root:
        for seed in SEEDS:
            run = titanic.run(titanic.Config(name="titanic", seed=seed))
            train, test = (data.dataset.columns for data in (run.train, run.test))
            methods = {"titanic, MLP": jdl_mlp(seed, Path(root))}
            for model in (LogisticRegression(), HistGradientBoostingClassifier(random_state=0)):
                fitted = model.fit(train["x"], train["y"])
                methods[type(model).__name__] = fitted.predict_proba(test["x"])
            for name, said in methods.items():
                accuracy = float((said.argmax(1) == test["y"]).mean())
                auc = float(roc_auc_score(test["y"], said[:, 1]))
                found.setdefault(name, []).append((accuracy, auc))
    print(
        f"Python {platform.python_version()}, scikit-learn {sklearn.__version__}: "
        f"{len(SEEDS)} splits"
    )
    for name, values in found.items():
        mean, spread = np.mean(values, 0), np.std(values, 0, ddof=1)
        print(
            f"{name:<32} accuracy {mean[0]:.3f} (sd {spread[0]:.3f})  AUC {mean[1]:.3f} "
            f"(sd {spread[1]:.3f})"
        )


if __name__ == "__main__":
    main()
