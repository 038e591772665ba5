"""Baselines of `stdlib_imports`: the most popular modules, and item-kNN (cosines of modules)."""

import platform

import jax.numpy as jnp
import numpy as np

import jdl
from jdl.metrics import ndcg_at_k, recall_at_k

train, _, test = jdl.data.stdlib_imports()
items = len(train.labels)


def had(data, target):
    """Which items each user has, (users, items): those of x, and the target too if wanted."""
    columns = data.columns
    matrix = np.zeros((len(data), items))
    rows = np.arange(len(data))
    matrix[rows[:, None], columns["x"]] = 1
    if target:
        matrix[rows, columns["y"]] = 1
    matrix[:, 0] = 0  # the start
    return matrix


learned, known = had(train, target=True), had(test, target=False)
norms = np.sqrt(learned.sum(0)).clip(1)
cosines = learned.T @ learned / np.outer(norms, norms)
methods = {
    "most popular": np.broadcast_to(learned.sum(0), known.shape),
    "item-kNN, all modules": known @ cosines,
    "item-kNN, 20 nearest": known @ np.where(cosines >= np.sort(cosines, 1)[:, [-21]], cosines, 0),
}
print(
    f"Python {platform.python_version()}: {len(train)} files, {items - 1} modules, "
    f"{int(learned.sum()):,} imports to learn from, {len(test)} to be found"
)
for name, scores in methods.items():
    ranked = np.where(known > 0, -np.inf, scores)
    ranked[:, 0] = -np.inf
    columns = jnp.asarray(ranked, jnp.float32), jnp.asarray(test.columns["y"])
    found = [float(metric(*columns, 10).value()) for metric in (recall_at_k, ndcg_at_k)]
    print(f"{name:<24} recall@10 {found[0]:.3f}, NDCG@10 {found[1]:.3f}")
