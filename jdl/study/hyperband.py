"""Hyperband (Li et al., 2018): brackets of successive halving, each with a later first rung.

Successive halving alone has to be told how early a trial may be stopped. Hyperband hedges: its
first bracket stops most trials early, its last none, and all cost about the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, pairwise
from typing import TypeVar

import jax

from jdl.keys import stream

T = TypeVar("T")


def bracket_sizes(factor: int, rungs: int) -> list[int]:
    """The trials of each bracket, from the one of so many rungs to that of none."""
    return [-(-(rungs + 1) * factor**n // (n + 1)) for n in range(rungs, -1, -1)]


def most_rungs(trials: int, factor: int) -> int:
    """The rungs of the first bracket for which there are trials enough."""
    return next(n for n in count() if sum(bracket_sizes(factor, n + 1)) > trials)


def brackets(
    trials: Sequence[T], stops: Sequence[int], factor: int, seed: int
) -> list[tuple[list[T], list[int]]]:
    """The trials and the rungs of each bracket, dealt by the seed in proportion to their sizes."""
    sizes = bracket_sizes(factor, len(stops))
    dealt = jax.random.permutation(stream(jax.random.key(seed), "hyperband"), len(trials)).tolist()
    ends = [len(trials) * sum(sizes[:n]) // sum(sizes) for n in range(len(sizes) + 1)]
    return [
        ([trials[one] for one in sorted(dealt[begin:end])], list(stops[n:]))
        for n, (begin, end) in enumerate(pairwise(ends))
    ]
