"""Metrics of generated text, BLEU and ROUGE, as computed by the libraries that papers report."""

from __future__ import annotations

from collections.abc import Sequence

from jdl.errors import Error


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of a corpus (Papineni et al., 2002), from 0 to 100, by sacrebleu.

    With one reference per sentence, case-sensitive, tokenized as in WMT ("13a").
    """
    _check(hypotheses, references)
    try:
        import sacrebleu
    except ImportError as error:
        raise _missing("bleu", error) from error
    return float(sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score)


def rouge(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L (Lin, 2004): mean F-measures from 0 to 1.

    By Google's rouge-score, for English; words are stemmed.
    """
    _check(hypotheses, references)
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _missing("rouge", error) from error
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    pairs = zip(hypotheses, references, strict=True)
    scores = [scorer.score(reference, hypothesis) for hypothesis, reference in pairs]
    return {name: sum(score[name].fmeasure for score in scores) / len(scores) for name in scores[0]}


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if not len(hypotheses) == len(references) > 0:
        raise Error(
            "There must be one reference for each hypothesis, and at least one; got "
            f"{len(hypotheses)} hypotheses and {len(references)} references."
        )


def _missing(name: str, error: ImportError) -> Error:
    return Error(
        f"{name} needs a library that is not installed ({error}): pip install 'jdl[text]'."
    )
