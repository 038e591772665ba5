"""Scores of whole evaluation sets, for `Run(score=...)`: text, answers, clusters, probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jdl.metrics import merge, scalars
from jdl.metrics.clusters import cluster_metrics
from jdl.metrics.probes import knn_probe, linear_probe
from jdl.metrics.squad import Words, squad_scores, squad_words
from jdl.objectives.predict import predict_all
from jdl.sampling import decode_until_end
from jdl.types import Batch, Error, Loader, Metrics, Objective, Predicts, Tokenizer, Variables

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


def answer_scores(objective: Objective, data: Any, words: Words = squad_words) -> Score:
    """Exact match and F1 of SQuAD of all predicted answers, as texts: for `Run(score=...)`.

    `data` is a loader of a dataset of `jdl.data.question_answers`, and `objective` is
    `extractive_qa`. `words` are those of `jdl.metrics.squad_scores`: `jdl.metrics.code_words` for
    answers that are code.
    """
    dataset: Any = getattr(data, "dataset", None)  # which a dataset itself has not
    if not isinstance(objective, Predicts) or not hasattr(dataset, "questions"):
        raise Error(
            "answer_scores needs an objective that predicts spans, such as extractive_qa, and a "
            "loader of jdl.data.question_answers."
        )

    def score(variables: Variables) -> dict[str, float]:
        spans = predict_all(objective, variables, data, columns=("id",))
        asked = [dataset.questions[n] for n in spans["id"]]
        predicted = [text for text, _ in dataset.answers(asked, spans["start"], spans["end"])]
        given = [[text for text, _ in question.answers] for question in asked]
        scores = squad_scores(predicted, given, words)
        return {name: float(mean.value()) for name, mean in scores.items()}

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


def metrics_by_set(objective: Objective, sets: Mapping[str, Loader]) -> Score:
    """The objective's loss and metrics on more test sets, by name: for `Run(score=...)`.

    For accuracy under noise, say, or on data of other places (corruptions, domain shift):
    `metrics_by_set(objective, {"10dB": noisy})` gives "10dB/accuracy" and so on. For models
    without a state that is carried from batch to batch.
    """

    def of_batch(variables: Variables, batch: Batch, i: int) -> Metrics:
        key = jax.random.fold_in(jax.random.key(0), i)
        output = objective.loss(variables, batch, key, False)
        return {"loss": output.loss, **output.metrics}

    def score(variables: Variables) -> dict[str, float]:
        compiled = jax.jit(of_batch)
        scores: dict[str, float] = {}
        for name, data in sets.items():
            merged = merge([compiled(variables, data[i], i) for i in range(len(data))])
            scores |= {f"{name}/{metric}": value for metric, value in scalars(merged).items()}
        return scores

    return score


def probe_scores(objective: Objective, labelled: Loader, data: Loader, k: int = 20) -> Score:
    """Accuracies of two probes of the features that an encoder learnt, for `Run(score=...)`.

    The `linear_probe` and the `knn_probe` of `jdl.metrics` are trained on the rows of `labelled`,
    with their labels y, and tested on those of `data`. The features are the column `code` of the
    predictions; they are not changed. Both loaders should be made by `batches`, which augments
    nothing and has each row once. `k` is the number of neighbors, at most that of labelled rows.
    """
    if not isinstance(objective, Predicts):
        raise Error("probe_scores needs an objective that predicts features, such as simclr.")

    def score(variables: Variables) -> dict[str, float]:
        sides = [
            predict_all(objective, variables, rows, columns=("y",)) for rows in (labelled, data)
        ]
        if "code" not in sides[0]:
            raise Error(
                "probe_scores needs the column code of the predictions, and the objective predicts "
                f"{', '.join(sorted(sides[0].keys() - {'y'}))}."
            )
        codes, labels, test_codes, test_labels = (
            side[name] for side in sides for name in ("code", "y")
        )
        return {
            "linear_probe": linear_probe(codes, labels, test_codes, test_labels),
            "knn_probe": knn_probe(codes, labels, test_codes, test_labels, min(k, len(labels))),
        }

    return score
