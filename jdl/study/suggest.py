"""Bayesian optimization, by Optuna: suggestions that learn from the trials before.

By the tree-structured Parzen estimator (TPE; Bergstra et al., 2011) or a Gaussian process (GP). A
suggestion is a function of the study's seed, the trial's number, and what the trials before have
reached. It is stored, so that a study that is started again does not ask anew, under any version of
Optuna.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

from jdl.keys import stream
from jdl.store.folder import read_json, write_json
from jdl.study.space import Distribution, Interval, Space
from jdl.types import Error

Tried = tuple[Mapping[str, str], float | None]
"""The values of a trial and its score, None if it failed."""


def check_optuna(sampler: str) -> None:
    """Raises `Error` where what a sampler needs is not installed."""
    if find_spec("optuna") is None:
        raise Error(f"--sampler {sampler} needs Optuna: pip install 'jdl[study]'.")
    if sampler == "gp" and find_spec("torch") is None:
        raise Error(
            "--sampler gp, Optuna's Gaussian process, needs PyTorch: pip install torch. --sampler "
            "tpe does without."
        )


def suggest(
    space: Space, seed: int, mode: str, tried: Sequence[Tried], sampler: str = "tpe"
) -> dict[str, str]:
    """The values of the next trial after those that were tried; the first ten are random."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = _distributions(space)
    draw = int(jax.random.bits(stream(jax.random.key(seed), sampler, len(tried))))
    samplers = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}
    directions = optuna.study.StudyDirection
    direction = directions.MAXIMIZE if mode == "max" else directions.MINIMIZE
    study = optuna.create_study(sampler=samplers[sampler](seed=draw), direction=direction)
    states = optuna.trial.TrialState
    for values, score in tried:
        state = states.FAIL if score is None else states.COMPLETE
        numbers = {field: _number(distributions[field], text) for field, text in values.items()}
        study.add_trial(
            optuna.trial.create_trial(
                state=state, value=score, params=numbers, distributions=distributions
            )
        )
    asked = study.ask(distributions).params
    return {field: _text(space.random.get(field), asked[field]) for field in distributions}


def _distributions(space: Space) -> dict[str, Any]:
    """Optuna's distributions of the space; the values of a grid are categories."""
    from optuna import distributions as of

    def optunas(one: Distribution) -> Any:
        if not isinstance(one, Interval):
            return of.CategoricalDistribution(one.ends())
        if one.whole:
            return of.IntDistribution(int(one.low), int(one.high), log=one.log)
        return of.FloatDistribution(one.low, one.high, log=one.log)

    grid = {name: of.CategoricalDistribution(texts) for name, texts in space.grid.items()}
    return grid | {name: optunas(one) for name, one in space.random.items()}


def _text(drawn_from: Distribution | None, value: Any) -> str:
    return drawn_from.rounded(value) if isinstance(drawn_from, Interval) else value


def _number(distribution: Any, text: str) -> Any:
    """A value as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return text
    return int(text) if isinstance(distribution, IntDistribution) else float(text)


def stored(study: Path, number: int) -> dict[str, str] | None:
    """The suggestion that was stored for a trial."""
    path = _path(study, number)
    return read_json(path) if path.exists() else None


def store(study: Path, number: int, values: Mapping[str, str]) -> dict[str, str]:
    """Stores the suggestion for a trial, unless another process has; the one that is stored."""
    path = _path(study, number)
    path.parent.mkdir(exist_ok=True)
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    write_json(mine, values)
    with suppress(FileExistsError):
        os.link(mine, path)  # at once, and only where there is none
    mine.unlink()
    return read_json(path)


def _path(study: Path, number: int) -> Path:
    return study / "suggestions" / f"trial{number}.json"
