"""Importance of hyperparameters: functional ANOVA (fANOVA; Hutter et al., 2014), by Optuna.

A random forest predicts the score from the values of the trials; the importance of a field is the
share of the variance of these predictions that it explains alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jdl.figures.parallel_coordinates import draw_parallel_coordinates, is_numeric
from jdl.types import Error

Row = Mapping[str, Any]
FEWEST = 8  # trials that finished: of fewer a forest learns nothing
# Of scores that follow one of two fields, and noise of 5%, fANOVA put the other one first in 4 of
# 20 studies of 8 trials, in 1 of 20 of 12 or 16, and in none of 24.
ENOUGH = 24


def hyperparameters(rows: Sequence[Row]) -> list[str]:
    """The columns of the fields that a study has searched."""
    columns = list(rows[0])
    return columns[columns.index("trial") + 1 : columns.index("seeds")]


def metric_of(rows: Sequence[Row]) -> str:
    """The column of the score of a study's trials."""
    return next(column for column in rows[0] if column.startswith("valid "))


def log_fields(search: Mapping[str, Any]) -> list[str]:
    """The fields of a search that belong on a logarithmic scale.

    These are drawn by loguniform, or of a grid of positive numbers that span ten or more.
    """
    drawn = [text.partition("=") for text in search["random"]]
    found = [field for field, _, of in drawn if of.strip().startswith("loguniform")]
    for field, _, text in [text.partition("=") for text in search["grid"]]:
        with suppress(ValueError):
            values = [float(value) for value in text.split(",")]
            found += [field] if 0 < 10 * min(values) <= max(values) else []
    return [field.strip().replace("-", "_") for field in found]


def importance(rows: Sequence[Row], log: Collection[str] = ()) -> dict[str, float]:
    """Importance of hyperparameters: functional ANOVA (fANOVA; Hutter et al., 2014), by Optuna.

    From the rows of a study: the share of each field that it searched, the most important first.
    `log`: the fields of a logarithmic scale. The shares add up to 1, however small the differences
    of the scores: of a study whose scores differ by chance they say nothing. Only trials that
    finished count. Raises `Error` where these are too few or alike, or Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise Error("The importance of hyperparameters needs Optuna: pip install 'jdl[study]'.")
    finished, metric = [row for row in rows if row["status"] == "finished"], metric_of(rows)
    fields = [f for f in hyperparameters(rows) if len({str(row[f]) for row in finished}) > 1]
    if len(finished) < FEWEST or not fields or len({row[metric] for row in finished}) == 1:
        raise Error(
            f"The importance of hyperparameters needs {FEWEST} trials that finished, of different "
            f"values and scores, and {len(finished)} finished."
        )
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    values = {field: _values([row[field] for row in finished]) for field in fields}
    distributions = {field: _distribution(of, field in log) for field, of in values.items()}
    study = optuna.create_study()
    for n, row in enumerate(finished):
        params = {field: of[n] for field, of in values.items()}
        trial = optuna.trial.create_trial(
            value=row[metric], params=params, distributions=distributions
        )
        study.add_trial(trial)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {field: float(share) for field, share in shares.items()}


def importance_line(rows: Sequence[Row], shares: Mapping[str, float]) -> str:
    """The shares in words, and that they say nothing yet where too few trials finished."""
    words = ", ".join(f"{field} {share:.0%}" for field, share in shares.items())
    finished = sum(row["status"] == "finished" for row in rows)
    few = f"; of {finished} trials that is too few to say, {ENOUGH} or more would"
    more = few if finished < ENOUGH and len(shares) > 1 else ""
    return f"Importance, shares of the variance (fANOVA): {words}{more}"


def _values(values: Sequence[Any]) -> Sequence[Any]:
    """Numbers, or categories as texts."""
    return values if is_numeric(values) else [str(one) for one in values]


def _distribution(values: Sequence[Any], log: bool) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not is_numeric(values):
        return CategoricalDistribution(sorted(set(values)))
    return FloatDistribution(min(values), max(values), log=log)


def draw_study(
    rows: Sequence[Row], low: bool, log: Collection[str], shares: Mapping[str, float], path: Path
) -> None:
    """Draws the parallel coordinates of the trials that finished, with these importances.

    The scores of trials that were stopped early are of fewer steps, and not comparable. `low`:
    whether the lowest score is the best. `log`: the fields of a logarithmic axis.
    """
    metric = metric_of(rows)
    finished = [row for row in rows if row["status"] == "finished"]
    columns = {field: [row[field] for row in finished] for field in hyperparameters(rows)}
    scores = [row[metric] for row in finished]
    others = len(rows) - len(finished)
    title = f"{len(finished)} trials that finished; {others} other{'s' * (others > 1)} left out"
    if finished:
        draw_parallel_coordinates(
            columns, scores, metric, low, log, shares, path, title if others else ""
        )
