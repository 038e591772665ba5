"""Scores of a whole evaluation set, for `Run(score=...)`: generated text and clusters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jdl.metrics.clusters import cluster_metrics
from jdl.objectives.predict import predict_all
from jdl.sampling import decode_until_end
from jdl.types import Error, Loader, Objective, Predicts, Tokenizer, Variables

TextMetric = Callable[[Sequence[str], Sequence[str]], float]  # (hypotheses, references) -> score
Score = Callable[[Variables], dict[str, float]]


def text_scores(
    objective: Objective, data: Loader, tokenizer: Tokenizer, **metrics: TextMetric
) -> Score:
    """Scores of generated text, such as BLEU and ROUGE, over all rows: for `Run(score=...)`.

    Each of the `metrics` compares the texts that the objective predicts with the texts of the
    column y: `text_scores(objective, test, tokenizer, bleu=jdl.metrics.bleu)`.
    """
    if not isinstance(objective, Predicts):
        raise Error("text_scores needs an objective that predicts tokens, such as seq2seq.")

    def score(variables: Variables) -> dict[str, float]:
        predicted = predict_all(objective, variables, data, columns=("y",))
        hypotheses, references = (
            [decode_until_end(tokenizer, row) for row in predicted[name]]
            for name in ("tokens", "y")
        )
        return {name: metric(hypotheses, references) for name, metric in metrics.items()}

    return score


def cluster_scores(objective: Objective, data: Loader) -> Score:
    """Clustering scores of all rows against their labels y, for `Run(score=...)`.

    Accuracy, NMI and ARI of the predicted clusters; see `jdl.metrics.cluster_metrics`.
    """
    if not isinstance(objective, Predicts):
        raise Error("cluster_scores needs an objective that predicts clusters.")

    def score(variables: Variables) -> dict[str, float]:
        predicted = predict_all(objective, variables, data, columns=("y",))
        return cluster_metrics(predicted["y"], predicted["cluster"])

    return score
