"""Frechet distance of generated rows from real ones (FID; Heusel et al., 2017).

The features are those of your own classifier, not of an Inception network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from jdl.data import arrays
from jdl.data.cache import cache_dir, read_cache, write_cache
from jdl.data.dataset import Dataset
from jdl.data.loader import DatasetLoader
from jdl.figures import samples
from jdl.figures.features import features
from jdl.inspect.restore import TrainedRun
from jdl.objectives.predict import map_rows
from jdl.store.checkpoints import state_digest
from jdl.types import Error, Loader, SamplesLatents

BATCH = 250  # batch size for the features


@dataclass(frozen=True)
class Moments:
    """The mean (D,) and the covariance (D, D) of features, in float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """The moments of features (N, D)."""
        x = features.astype(np.float64)
        return cls(x.mean(0), np.cov(x, rowvar=False))

    def distance(self, target: Moments) -> float:
        """The squared Frechet distance of two normal distributions (Dowson and Landau, 1982)."""
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(values.clip(0)) @ vectors.T
        shared = np.sqrt(np.linalg.eigvalsh(root @ target.covariance @ root).clip(0)).sum()
        means = np.square(self.mean - target.mean).sum()
        return float(means + self.covariance.trace() + target.covariance.trace() - 2 * shared)


@dataclass(frozen=True)
class FrechetDistance:
    """Frechet distances from a classifier's test data."""

    generated: float
    training: float  # for comparison: that of as many rows of the classifier's training data
    features: int  # the number of features
    reference: str  # digest of classifier and test data; distances with equal ones are comparable


def frechet(
    generator: TrainedRun, classifier: TrainedRun, count: int, seed: int = 0
) -> FrechetDistance:
    """Frechet distance of `count` generated rows from the classifier's test data.

    It compares the features that the classifier's last dense layer reads. The distance depends on
    the classifier and on `count`: the fewer rows, the larger its bias. The moments of the test data
    are cached. Raises `Error` for a run that does not generate, or rows of another shape.
    """
    run, name = generator.run, generator.run.config.name
    if not isinstance(generator.objective, SamplesLatents):
        raise Error(
            f"{name} cannot generate new rows, so it has no Frechet distance: name a run with a "
            "generative objective that has a prior."
        )
    if count < 2:
        raise Error(f"A covariance needs at least 2 rows, not {count}.")
    needed, given = (trained.run.train.spec["x"].shape[1:] for trained in (classifier, generator))
    if needed != given:
        raise Error(
            f"{name} generates rows of shape {given}, but {classifier.run.config.name} reads "
            f"{needed}."
        )
    train = _dataset(classifier, classifier.run.train)
    test = _dataset(classifier, classifier.run.test)
    reference = hashlib.sha256(
        f"{state_digest(classifier.state)} {test.fingerprint}".encode()
    ).hexdigest()
    expected = _cached_moments(reference, classifier, test)
    x = samples.generate(run, generator.variables, count, seed)
    generated = _moments(classifier, arrays(x=x).map(*test.transforms))
    training = _moments(classifier, replace(train, ids=train.ids[:count]))
    return FrechetDistance(
        generated.distance(expected),
        training.distance(expected),
        len(expected.mean),
        reference[:12],
    )


def _dataset(classifier: TrainedRun, data: Loader | None) -> Dataset:
    if not isinstance(data, DatasetLoader):
        raise Error(
            f"{classifier.run.config.name} needs training and test data from a jdl.data.Dataset, "
            "to compare generated rows with: add Run(test=...)."
        )
    return data.dataset


def _cached_moments(reference: str, classifier: TrainedRun, test: Dataset) -> Moments:
    """The moments of the test data, computed once and then read from the cache."""
    folder = cache_dir() / "features" / reference
    columns = read_cache(folder)
    if columns is None:
        columns = vars(_moments(classifier, test))
        write_cache(folder, columns)
    return Moments(**columns)


def _moments(classifier: TrainedRun, dataset: Dataset) -> Moments:
    """The moments of the classifier's features of all rows."""
    batches = dataset.batches(min(BATCH, len(dataset)))
    columns = map_rows(partial(features, classifier.run), classifier.variables, batches)
    return Moments.of(columns["features"])
