"""Test accuracy on the digits with few labels: a CNN alone, and in mutual learning with a peer.

scripts/bench mutual [LABELS]: the CNN of `digits_cnn`, 300 steps, seeds 0 to 4 (other labels each).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import optax

import jdl
from jdl.models.cnn import CNN

STEPS, BATCH, SEEDS = 300, 50, range(5)
ALONE = jdl.objectives.classify(CNN(10, ((32, 2), (64, 2)), dense=(), batch_norm=True, dropout=0.2))
EQUAL, NARROW = (
    CNN(10, ((n, 2), (2 * n, 2)), dense=(), batch_norm=True, dropout=0.2) for n in (32, 16)
)
OBJECTIVES = {
    "alone": ALONE,
    "with a peer of the same form": jdl.mutual(ALONE, EQUAL),
    "with a peer of half the width": jdl.mutual(ALONE, NARROW),
}


def metrics(name: str, labels: int, seed: int, root: Path) -> dict[str, jdl.Mean]:
    """The test metrics of a run that ends after its last step."""
    train, test = jdl.data.digits()
    share = labels / len(train)
    few, _ = train.split(share, 1 - share, seed=seed, stratify="y")
    learner = jdl.descent(OBJECTIVES[name], optax.adamw(jdl.optim.warmup_cosine(3e-3, STEPS)))
    config = jdl.Config(name=name.replace(" ", "_"), seed=seed, steps=STEPS)
    data = few.shuffled(BATCH, seed, jdl.data.random_crop(1))
    run = jdl.Run(config, learner, data, test=test.batches(128))
    options = jdl.Options(root=root, quiet=True, log_every=100, eval_every=0, save_every=0)
    return jdl.fit(run, options).metrics["test"]


def main() -> None:
    """Prints each seed's accuracy, and means with standard deviations over the seeds."""
    labels = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        for name in OBJECTIVES:
            found = [metrics(name, labels, seed, Path(folder)) for seed in SEEDS]
            for score in sorted(key for key in found[0] if key.endswith("accuracy")):
                values = np.array([float(each[score].value()) for each in found])
                mean = f"{values.mean():.4f} (sd {values.std(ddof=1):.4f})"
                print(f"{name:<30} {score:<14} {mean}  {np.round(values, 4).tolist()}", flush=True)


if __name__ == "__main__":
    main()
