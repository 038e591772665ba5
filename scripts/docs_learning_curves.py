"""Draws the learning curves of docs/fine-tuning.md, and prints the table beside them.

python scripts/docs_learning_curves.py

A CNN learns 0 to 4 from 8,000 training images of MNIST, each seen once. Then 5 to 9 are learned
from few labels. A seed draws the labelled rows, their order and all fresh weights. The rate is the
best of three for one seed more, on validation rows.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from scipy import stats

import jdl
from jdl.data import Dataset
from jdl.data.order import permutation
from jdl.models.cnn import CNN
from jdl.types import Objective, Variables

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

PICTURE = Path(__file__).parents[1] / "docs" / "assets" / "learning_curves.png"
MODEL = CNN(5, blocks=((16, 1), (32, 1)), dense=(64,))
HEAD = "head/Dense_1/"
LABELS, SEEDS, RATES = (10, 100, 1_000), range(5), (1e-3, 3e-3, 1e-2)
STEPS, BATCH, VALID = 200, 20, 2_000
COLORS = {"from scratch": "#89a", "in full": "#d95f02", "LoRA": "#00796b", "head alone": "#7570b3"}


def main() -> None:
    """Trains in each way, prints the table and writes `PICTURE`."""
    known, new = zip(*(halves(data) for data in jdl.data.tfds("mnist")), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "backbone.safetensors"
        backbone = trained(jdl.objectives.classify(MODEL), known[0], 0, 1e-3, 2 * STEPS)
        jdl.weights.save(backbone, file)
        ways = objectives(jdl.pretrained(MODEL, jdl.weights.load(file), skip=HEAD))
        reached = accuracy(ways["from scratch"], backbone, known[1])
        print(f"0 to 4: {reached:.3f}; 5 to 9, accuracy of {len(new[1]):,} test rows:")
        found = {way: curve(objective, *new) for way, objective in ways.items()}
    for way, objective in ways.items():
        row = columns(new[1], np.arange(1))
        shapes = jax.eval_shape(objective.init, jax.random.key(0), row)
        numbers = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        means, margins = interval(found[way])
        cells = (f"{m:.3f} ± {e:.3f}" for m, e in zip(means, margins, strict=True))
        print(f"| {way} | {numbers:,} | {' | '.join(cells)} |")
    draw(found)


def objectives(model: Any) -> dict[str, Objective]:
    """The ways to learn; `model` begins with the backbone."""
    full = jdl.objectives.classify(model)
    return {
        "from scratch": jdl.objectives.classify(MODEL),
        "in full": full,
        "LoRA": jdl.lora(full, "Conv|Dense_0", rank=4, alpha=8.0, train=HEAD),
        "head alone": jdl.freeze(full, f"^(?!{HEAD})"),
    }


def curve(objective: Objective, data: Dataset, test: Dataset) -> np.ndarray:
    """The test accuracy (numbers of labels, seeds)."""
    valid, rest = data.split(VALID / len(data), 1 - VALID / len(data), stratify="y")

    def run(labels: int, seed: int, rate: float, score: Dataset) -> float:
        rows = rest.split(labels / len(rest), seed=seed, stratify="y")[0]
        return accuracy(objective, trained(objective, rows, seed, rate, STEPS), score)

    rows = []
    for labels in LABELS:
        scores = {rate: run(labels, len(SEEDS), rate, valid) for rate in RATES}
        best = max(scores, key=scores.__getitem__)
        rows.append([run(labels, seed, best, test) for seed in SEEDS])
        print(f"{labels:,} labels, the rate {best}: {rows[-1]}", flush=True)
    return np.asarray(rows)


def interval(accuracies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means over the seeds, and half the width of their 95% confidence intervals (Student)."""
    seeds = accuracies.shape[1]
    quantile = stats.t.ppf(0.975, seeds - 1)
    return accuracies.mean(1), quantile * accuracies.std(1, ddof=1) / np.sqrt(seeds)


def halves(data: Dataset) -> tuple[Dataset, Dataset]:
    """The digits 0 to 4, and 5 to 9 as classes 0 to 4."""
    x, y = data.column("x"), data.column("y")
    known, new = (jdl.data.arrays(x=x[rows], y=y[rows] % 5) for rows in (y < 5, y >= 5))
    return known, new


def trained(objective: Objective, data: Dataset, seed: int, rate: float, steps: int) -> Variables:
    """The variables after a training, in epochs of batches."""
    size = min(BATCH, len(data))
    epochs = range(-(-steps * size // len(data)))
    order = np.concatenate([permutation(len(data), seed, epoch) for epoch in epochs])
    batches = columns(data, order[: steps * size].reshape(steps, size))
    return scan(objective, rate, jax.random.key(seed), batches)


@partial(jax.jit, static_argnums=0)
def scan(objective: Objective, rate: Any, key: Any, batches: Any) -> Variables:
    """All steps of a training as one program, which is compiled once for all seeds and rates."""
    schedule = jdl.optim.warmup_cosine(1.0, len(batches["y"]))
    optimizer = jdl.optim.adamw(lambda step: rate * schedule(step))
    learner = jdl.descent(objective, optimizer)
    state = learner.init(key, jax.tree.map(lambda x: x[0], batches))
    state, _ = jax.lax.scan(learner.step, state, batches)
    return learner.eval_variables(state)


def accuracy(objective: Objective, variables: Variables, data: Dataset) -> float:
    """The accuracy of all rows."""
    rows = columns(data, np.arange(len(data)))
    return float(evaluate(objective, variables, rows).value())


def columns(data: Dataset, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Images from 0 to 1 and labels.

    Not a loader, which would be compiled anew for each of the many small datasets.
    """
    return {"x": data.column("x")[rows] / np.float32(255), "y": data.column("y")[rows]}


@partial(jax.jit, static_argnums=0)
def evaluate(objective: Objective, variables: Variables, batch: Any) -> Any:
    """The accuracy of a batch, as counts."""
    return objective.loss(variables, batch, jax.random.key(0), False).metrics["accuracy"]


def draw(found: dict[str, np.ndarray]) -> None:
    """Accuracy over the number of labels, with intervals."""
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for n, (way, accuracies) in enumerate(found.items()):
        means, margins = interval(accuracies)
        places = np.asarray(LABELS) * 1.04 ** (n - 1.5)  # beside each other
        axes.errorbar(places, means, margins, label=way, color=COLORS[way], marker="o", capsize=3)
    axes.set(xscale="log", xlabel="labels", ylabel="test accuracy")
    axes.set_xticks(LABELS, [f"{labels:,}" for labels in LABELS])
    axes.minorticks_off()
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=130)
    Image.open(PICTURE).convert("RGB").quantize(64).save(PICTURE, optimize=True)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
