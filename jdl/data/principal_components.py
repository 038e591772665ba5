"""Principal components of a column x, by the training data."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jdl.data.dataset import Dataset
from jdl.types import Batch, Error, Key

ROWS = 1024  # of a batch of which moments are computed
MOST_NUMBERS = 4096  # of a row: the covariance has their square
LEAST_VARIANCE = 1e-12  # of the largest: what is below is rounding in the float32 of the projection


def principal_components(train: Dataset, *others: Dataset, components: int) -> tuple[Dataset, ...]:
    """Principal component analysis (PCA; Pearson, 1901): x (B, ...) becomes x (B, components).

    Rows are flattened, the mean is subtracted, and they are projected on the directions of the
    largest variance, from the largest on; no component is scaled. Mean and directions are those of
    `train` alone, computed in float64 after the transforms that it has, and are applied to it and
    to `others`: `train, test = principal_components(train, test, components=32)`. The largest
    number of each direction is positive. Directions in which the training data do not vary are
    refused.
    """
    spec = train.batches(1).spec
    if "x" not in spec or not jnp.issubdtype(spec["x"].dtype, jnp.floating):
        raise Error("principal_components needs a column x of floats or images.")
    size = spec["x"].size
    most = min(size, len(train) - 1)  # n rows vary in n - 1 directions about their mean
    if not 1 <= components <= most:
        raise Error(
            f"components must be from 1 to {most}: a row has {size} numbers, and one less than the "
            f"training rows is {len(train) - 1}. It is {components}."
        )
    if size > MOST_NUMBERS:
        raise Error(
            f"principal_components takes rows of up to {MOST_NUMBERS} numbers, and these have "
            f"{size}: make them smaller first, such as images by an average of their pixels."
        )
    for split in others:
        shape = split.batches(1).spec["x"].shape
        if shape != spec["x"].shape:
            raise Error(
                f"principal_components needs splits of one shape, but x of an example is "
                f"{spec['x'].shape[1:]} in the training data and {shape[1:]} in another split."
            )
    project = Projection(*_principal_axes(train, size, components))
    return tuple(split.map(project) for split in (train, *others))


@dataclass(frozen=True, eq=False)
class Projection:
    """The transform of x (...) to its principal components (K,); see `principal_components`."""

    mean: np.ndarray  # (D,) of the flattened rows
    axes: np.ndarray  # (D, K), columns of length 1

    def __call__(self, key: Key, example: Batch) -> Batch:
        """The example with the components of its x, as float32."""
        x = example["x"].reshape(-1) - jnp.asarray(self.mean, jnp.float32)
        axes = jnp.asarray(self.axes, jnp.float32)
        return {**example, "x": jnp.matmul(x, axes, precision="highest")}


def _principal_axes(train: Dataset, size: int, components: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) of all rows, and the first eigenvectors (D, K) of their covariance."""
    loader = train.batches(min(ROWS, len(train)))
    count, mean, squares = 0, np.zeros(size), np.zeros((size, size))
    for i in range(len(loader)):  # merged as by Chan et al. (1983), so that no digits are lost
        batch = loader[i]
        x = np.asarray(batch["x"], np.float64)[np.asarray(batch["mask"])].reshape(-1, size)
        of_batch, total = x.mean(0), count + len(x)
        apart = of_batch - mean
        squares += (x - of_batch).T @ (x - of_batch)
        squares += np.outer(apart, apart) * count * len(x) / total
        mean, count = mean + apart * len(x) / total, total
    variances, vectors = np.linalg.eigh(squares / count)
    rounding = np.square(1e-14 * mean).sum()  # the variance of equal rows, whose mean is rounded
    varied = int((variances > max(LEAST_VARIANCE * variances[-1], rounding)).sum())
    if components > varied:
        raise Error(
            f"The training data vary in {varied} directions only, and {components} components are "
            f"asked for: ask for {varied} at most."
            if varied
            else "All training rows are the same: they have no principal components."
        )
    axes = vectors[:, ::-1][:, :components]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0)
    return mean, axes * np.sign(largest)
