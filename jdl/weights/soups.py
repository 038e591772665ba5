"""Arithmetic of weights: model soups, which average models, and task vectors, which add tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flax.traverse_util import unflatten_dict

from jdl.objectives.pretrained_model import Weights
from jdl.types import Error, Variables
from jdl.weights.load import arrays_by_path

Arrays = Mapping[str, np.ndarray]
Given = Weights | Variables


def uniform_soup(models: Sequence[Given]) -> Variables:
    """A uniform model soup (Wortsman et al., 2022): the equal average of several models' weights.

    Models are `jdl.weights.load(...)` or variables, fine-tuned from the same pretrained weights;
    of others an average is worth nothing. Sums are of float64, then cast to the models' types.
    BatchNorm's running statistics are averaged too; see `recompute_batch_stats`. Raises `Error`
    where paths, shapes or types differ, with their names.
    """
    return _mean(_alike(models))


def greedy_soup(models: Sequence[Given], score: Callable[[Variables], float]) -> Variables:
    """A greedy model soup (Wortsman et al., 2022): the average of those models that improve it.

    `score` gives a number of variables, the higher the better: the accuracy on rows of a validation
    set. From the best model on, in the order of their own scores, each is taken in where the score
    of the average with it is not below that without it.
    """
    trees = _alike(models)
    scores = [float(score(_variables(tree))) for tree in trees]
    best, *others = sorted(range(len(trees)), key=lambda n: -scores[n])
    soup, high = [trees[best]], scores[best]
    for n in others:
        found = float(score(_mean([*soup, trees[n]])))
        if found >= high:
            soup, high = [*soup, trees[n]], found
    return _mean(soup)


def task_vector(fine_tuned: Given, pretrained: Given) -> Variables:
    """A task vector (Ilharco et al., 2023): the fine-tuned weights minus the pretrained ones.

    Of the parameters alone, the collection "params".
    """
    trees = [_params(tree) for tree in _alike([fine_tuned, pretrained])]
    return _combined(trees[0], trees, [1, -1])


def add_task_vectors(pretrained: Given, vectors: Sequence[Given], scale: float = 1.0) -> Variables:
    """Task arithmetic: the pretrained weights plus `scale` times the sum of task vectors.

    Several vectors add tasks, a negative scale takes one away (Ilharco et al., 2023). The scale is
    chosen by rows of a validation set.
    """
    whole = arrays_of(pretrained)
    trees = _alike([_variables(_params(whole)), *vectors])
    added = _combined(trees[0], trees, [1, *[scale] * (len(trees) - 1)])
    return {**_variables(whole), **added}


def arrays_of(given: Given) -> Arrays:
    """The arrays by path of weights or variables."""
    return given.arrays if isinstance(given, Weights) else arrays_by_path(given)


def _alike(models: Sequence[Given]) -> list[Arrays]:
    """The arrays by path of models that have the same ones."""
    if not models:
        raise Error("An average needs the weights of at least one model.")
    trees = [arrays_of(model) for model in models]
    first = {path: (x.shape, x.dtype) for path, x in trees[0].items()}
    for n, tree in enumerate(trees[1:], 2):
        other = {path: (x.shape, x.dtype) for path, x in tree.items()}
        wrong = [path for path in {**first, **other} if first.get(path) != other.get(path)]
        if wrong:
            shown = ", ".join(f"{p} ({_form(first, p)}, {_form(other, p)})" for p in wrong[:8])
            raise Error(
                f"The models 1 and {n} differ in the weights of {len(wrong)} paths: {shown}."
            )
    return trees


def _form(forms: Mapping[str, tuple[tuple[int, ...], np.dtype]], path: str) -> str:
    return f"{forms[path][1]}{list(forms[path][0])}" if path in forms else "none"


def _mean(trees: Sequence[Arrays]) -> Variables:
    return _combined(trees[0], trees, [1 / len(trees)] * len(trees))


def _combined(like: Arrays, trees: Sequence[Arrays], factors: Sequence[float]) -> Variables:
    """The weighted sum of trees, in float64; what is no floating-point number must be equal."""
    found = {}
    for path, first in like.items():
        leaves = [tree[path] for tree in trees]
        if not np.issubdtype(first.dtype, np.floating) and first.dtype.name != "bfloat16":
            if not all(np.array_equal(leaf, first) for leaf in leaves):
                raise Error(f"{path} is {first.dtype}, and differs: it has no average.")
            found[path] = first
            continue
        total = np.zeros(first.shape)
        for factor, leaf in zip(factors, leaves, strict=True):
            total += factor * leaf.astype(np.float64)
        found[path] = total.astype(first.dtype)
    return _variables(found)


def _params(arrays: Arrays) -> Arrays:
    found = {path: x for path, x in arrays.items() if path.startswith("params/")}
    if not found:
        raise Error(
            f"There are no parameters, params/..., among {', '.join(list(arrays)[:3])}, ...: give "
            "variables of jdl, or rename the weights."
        )
    return found


def _variables(arrays: Arrays) -> Variables:
    return unflatten_dict(dict(arrays), sep="/")
