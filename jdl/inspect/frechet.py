"""The Frechet distance of rows that a run makes from real ones, by the features that a trained classifier reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jdl.data import arrays
from jdl.data.cache import cache_dir, read_cache, write_cache
from jdl.data.dataset import Dataset
from jdl.data.loader import DatasetLoader
from jdl.figures import samples
from jdl.figures.features import reader
from jdl.inspect.restore import Restored
from jdl.store.checkpoints import state_digest
from jdl.types import Error

SIZE = 250  # rows of which features are computed at once


@dataclass(frozen=True)
class Moments:
    """The mean (D,) and the covariance (D, D) of features, of float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """Those of features (N, D)."""
        wide = features.astype(np.float64)
        return cls(wide.mean(0), np.cov(wide, rowvar=False))

    def distance(self, other: Moments) -> float:
        """The squared Frechet distance of the normal distributions of these moments (Dowson and Landau, 1982)."""
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(values.clip(0)) @ vectors.T
        shared = np.sqrt(np.linalg.eigvalsh(root @ other.covariance @ root).clip(0)).sum()
        apart = np.square(self.mean - other.mean).sum()
        return float(apart + self.covariance.trace() + other.covariance.trace() - 2 * shared)


@dataclass(frozen=True)
class Distance:
    """From a classifier's test data: of made rows, and of as many of those that the classifier was trained on."""

    made: float
    trained_on: float
    features: int
    by: str  # what tells the classifier and its data: distances compare where this is the same


def frechet(found: Restored, classifier: Restored, count: int, seed: int = 0) -> Distance:
    """How far `count` rows that a run draws are from the classifier's test data (Heusel et al., 2017).

    The features are what the last dense layer of the classifier reads. Distances depend on the classifier and on
    `count`: few rows seem farther away than they are. What the real rows have is kept in jdl's cache. Raises `Error`
    where the run draws no rows, or rows that the classifier does not read.
    """
    name, maker = found.run.config.name, found.run.learner.objective.maker
    if maker is None or maker.noise is None:
        raise Error(f"{name} draws no new rows, whose distance could be told.")
    if count < 2:
        raise Error(f"A covariance needs at least 2 rows, and not {count}.")
    real, drawn = classifier.run.train.spec["x"].shape[1:], found.run.train.spec["x"].shape[1:]
    if real != drawn:
        raise Error(f"{name} draws rows of {drawn}, and {classifier.run.config.name} reads {real}.")
    trained, judged = (
        _examples(classifier, data) for data in (classifier.run.train, classifier.run.test)
    )
    by = hashlib.sha256(
        f"{state_digest(classifier.state)} {judged.fingerprint}".encode()
    ).hexdigest()
    expected = _kept(by, classifier, judged)
    x = samples.drawn(found.run, found.run.learner.eval_variables(found.state), count, seed)
    made = _moments(classifier, arrays(x=x).map(*judged.transforms))
    before = _moments(classifier, trained.select(slice(count)))
    return Distance(made.distance(expected), before.distance(expected), len(expected.mean), by[:12])


def _examples(classifier: Restored, data: Any) -> Dataset:
    if not isinstance(data, DatasetLoader):
        raise Error(
            f"{classifier.run.config.name} has no test data in batches, which rows could be compared with."
        )
    return data.dataset


def _kept(by: str, classifier: Restored, judged: Dataset) -> Moments:
    """The moments of the test data, from the cache where they are there."""
    folder = cache_dir() / "features" / by
    columns = read_cache(folder)
    if columns is None:
        columns = vars(_moments(classifier, judged))
        write_cache(folder, columns)
    return Moments(**columns)


def _moments(classifier: Restored, examples: Dataset) -> Moments:
    """Those of what the classifier's last dense layer reads of the rows."""
    variables, look = (
        classifier.run.learner.eval_variables(classifier.state),
        jax.jit(reader(classifier.run)),
    )
    batches = examples.batches(min(SIZE, len(examples)))
    found = [np.asarray(look(variables, batches[n])) for n in range(len(batches))]
    return Moments.of(np.concatenate(found)[: len(examples)])
