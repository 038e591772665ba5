"""Scores of whole corpora of text, as the libraries compute them that papers report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from jdl.sampling import decode_until_end
from jdl.types import Loader, Error, Objective, Tokenizer, Variables

Measure = Callable[[Sequence[str], Sequence[str]], float]


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU from 0 to 100, one reference a sentence, cased, tokenized as WMT does (13a), by sacrebleu."""
    _check(hypotheses, references)
    try:
        import sacrebleu
    except ImportError as error:
        raise _missing("bleu", error) from error
    return float(sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score)


def rouge(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L of English, stemmed: the mean F-measures from 0 to 1, by Google's rouge-score."""
    _check(hypotheses, references)
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _missing("rouge", error) from error
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scores = [
        scorer.score(reference, hypothesis)
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    return {name: sum(score[name].fmeasure for score in scores) / len(scores) for name in scores[0]}


def scores(
    objective: Objective, data: Loader, tokenizer: Tokenizer, **measures: Measure
) -> Callable[[Variables], dict[str, float]]:
    """For `Run(score=...)`: each measure of what the objective writes from all rows of the data, against their y."""
    predict = objective.predict
    if predict is None:
        raise Error("Only an objective that predicts can be scored by what it writes.")

    def score(variables: Variables) -> dict[str, float]:
        written: list[str] = []
        references: list[str] = []
        write = jax.jit(predict)
        for n in range(len(data)):
            batch = data[n]
            tokens, mask = np.asarray(write(variables, batch)["tokens"]), np.asarray(batch["mask"])
            written += [decode_until_end(tokenizer, row) for row in tokens[mask]]
            references += [decode_until_end(tokenizer, row) for row in np.asarray(batch["y"])[mask]]
        return {name: measure(written, references) for name, measure in measures.items()}

    return score


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if not len(hypotheses) == len(references) > 0:
        raise Error(
            f"One reference a hypothesis is needed; given: {len(hypotheses)} and {len(references)}."
        )


def _missing(name: str, error: ImportError) -> Error:
    return Error(
        f"{name} needs a library that is not installed ({error}): pip install 'jdl[text]'."
    )
