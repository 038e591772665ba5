"""Searches: the description of a study, whose fields are flags, and what its trials are.

The trials of a grid, of random search and of a Sobol sequence are pure functions of the study's
seed and the trial's number, so that a study that is started again, or goes on with more trials, has
the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jdl.keys import stream
from jdl.study.space import Space
from jdl.study.suggest import check_optuna
from jdl.types import Error

Texts = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class Search:
    """What a study tries, how, and by which metric of the validation data it chooses.

    By grid search, random search (Bergstra and Bengio, 2012), a quasi-random Sobol sequence,
    Bayesian optimization, successive halving (Jamieson and Talwalkar, 2016) and Hyperband (Li et
    al., 2018). Each field is a flag of `jdl study`.
    """

    grid: Texts = ()
    """Grid search: all combinations of values, as lr=1e-3,3e-3; once for each field."""
    random: Texts = ()
    """Random search: dropout=uniform(0, 0.5), lr=loguniform(1e-4, 1e-1) or width=choice(64, 256);
    once for each field."""
    sampler: Literal["random", "sobol", "tpe", "gp"] = "random"
    """How --random is drawn: independently; by a Sobol sequence, which fills space evenly; or by
    TPE (needs Optuna) or a Gaussian process (needs Optuna and PyTorch), which learn from the trials
    before, and also choose among --grid."""
    trials: int = 0
    """Number of trials, configs that are tried; 0: as many as the grid has."""
    seeds: int = 1
    """Random seeds that each trial is trained with: its score is the mean over them."""
    maximize: str = ""
    """Choose the trial with the highest value of this metric of the validation data."""
    minimize: str = ""
    """Choose the trial with the lowest value of this metric; by default as Run.best says."""
    study_seed: int = 0
    """Random seed of the values that are drawn."""
    halving: int = 0
    """Successive halving: at each rung one in this many trials goes on; 0: all train to the end."""
    first_rung: int = 0
    """Steps to the first rung, and HALVING times as many to each next; 0: so that about one trial
    trains to the end."""
    hyperband: bool = False
    """Hyperband: brackets of successive halving, each with a later first rung; with --halving."""
    study: Path | None = None
    """Folder of the study and its runs; by default studies/<name of the experiment>."""

    def __post_init__(self) -> None:
        if self.maximize and self.minimize:
            raise Error("A study has one metric: give --maximize or --minimize, not both.")
        least = {"trials": 0, "seeds": 1, "study_seed": 0, "halving": 0, "first_rung": 0}
        for field, bound in least.items():
            if getattr(self, field) < bound:
                flag = f"--{field.replace('_', '-')}"
                raise Error(f"{flag} must be {bound} or more, not {getattr(self, field)}.")
        if self.study_seed >= 2**32:
            raise Error(f"--study-seed must be below 2**32, not {self.study_seed}.")
        if self.halving == 1:
            raise Error("--halving 1 would stop no trial: use 2 or more, 3 is usual.")
        if self.first_rung and not self.halving:
            raise Error("--first-rung is of successive halving: give --halving too.")
        if self.hyperband and not self.halving:
            raise Error(
                "--hyperband is made of successive halving: give --halving too, 3 is usual."
            )
        if self.learns and self.halving:
            raise Error(
                f"--sampler {self.sampler} learns from trials that end: leave out --halving."
            )
        if self.learns and not self.trials:
            raise Error(f"--sampler {self.sampler}: say how many trials there are, by --trials.")

    @property
    def learns(self) -> bool:
        """Whether the values of a trial depend on what those before it have reached."""
        return self.sampler in ("tpe", "gp")

    def criterion(self, best: str) -> tuple[str, str]:
        """ "max" or "min", and the metric of the validation data, by default that of `Run.best`."""
        metric = self.maximize or self.minimize
        mode = "max" if self.maximize else "min"
        if not metric:
            mode, _, metric = best.partition(" ")
        split, _, name = metric.replace("/", " ", 1).partition(" ")
        if split == "test":
            raise Error(
                "A study never chooses by the test data: the best of many trials on the test data "
                "is partly the luckiest, and its test result would be too good. It chooses by "
                f"{name or 'a metric'} of the validation data."
            )
        return mode, name if split == "valid" and name else metric


def points(search: Search, space: Space) -> list[dict[str, str]]:
    """The values of each trial's fields; none where they depend on what trials reach.

    Raises `Error` where the number of trials is not clear.
    """
    if search.learns:
        check_optuna(search.sampler)
        return []
    count, size = search.trials, space.grid_size
    if search.halving and (fields := {"steps", "epochs"} & {*space.grid, *space.random}):
        raise Error(f"{fields.pop()} is not searched with --halving, which compares equal steps.")
    if space.random and not count:
        raise Error("Values are drawn (--random): say how many trials there are, by --trials.")
    if not space.random and count not in (0, size):
        raise Error(
            f"The grid has {size:,} combinations, and --trials is {count:,}: leave out --trials, "
            "or draw values by --random."
        )
    count = count or size
    shares = _shares(search, list(space.random), count)
    columns = dict(zip(space.random, shares.T.tolist(), strict=True))
    return [
        space.point(n, {field: column[n] for field, column in columns.items()})
        for n in range(count)
    ]


def _shares(search: Search, fields: Sequence[str], count: int) -> np.ndarray:
    """Numbers from 0 to 1 for each trial and field; more trials have the same first ones."""
    shape = count if search.sampler == "random" else 1
    draws = [_uniform(search.study_seed, field, shape) for field in fields]
    columns = np.asarray(draws, np.float64).reshape(len(fields), shape).T
    if search.sampler == "random" or not fields:
        return columns if fields else np.empty((count, 0))
    from scipy.stats import qmc  # takes a second to import

    if len(fields) > qmc.Sobol.MAXDIM:
        raise Error(f"A Sobol sequence has at most {qmc.Sobol.MAXDIM:,} fields.")
    sequence = qmc.Sobol(len(fields), scramble=False).random_base2((count - 1).bit_length())
    return (sequence[:count] + columns) % 1  # a random shift (Cranley and Patterson, 1976)


def _uniform(seed: int, field: str, count: int) -> jax.Array:
    key = jax.random.key(seed)
    return jax.vmap(lambda n: jax.random.uniform(stream(key, field, n)))(jnp.arange(count))
