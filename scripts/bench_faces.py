"""Face verification without training, beside `orl_faces`: cosines of pixels and of eigenfaces.

Eigenfaces (Turk and Pentland, 1991) are the principal components of the training people's faces.
The pairs and metrics are those of the experiment.
"""

import numpy as np
from sklearn.decomposition import PCA

import jdl
from jdl.metrics import equal_error_rate, true_accept_rate, verification_auc


def main() -> None:
    """Prints AUC, equal error rate and true accept rate for the split of each seed."""
    faces = jdl.data.orl_faces()
    for seed in range(3):
        train, test = faces.split(0.75, 0.25, seed=seed, group="y")
        fit, x = (part.columns["x"].reshape(len(part), -1) / 255 for part in (train, test))
        pca = PCA(64, whiten=True, random_state=0).fit(fit)
        for name, codes in (("pixels", x - fit.mean(0)), ("eigenfaces", pca.transform(x))):
            columns = {"code": codes.astype(np.float32)}, {"y": test.columns["y"]}
            rates = [m(*columns).value() for m in (verification_auc, equal_error_rate)]
            rates.append(true_accept_rate(*columns).value())
            shown = "AUC {:.3f}, equal error rate {:.3f}, true accepts {:.2f}".format(*rates)
            print(f"seed {seed} {name:<12} {shown}")


if __name__ == "__main__":
    main()
