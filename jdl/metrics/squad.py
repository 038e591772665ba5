"""Exact match and F1 of SQuAD: how predicted answers agree with given ones, as texts."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jdl.types import Error, Mean

Words = Callable[[str], list[str]]
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_words(text: str) -> list[str]:
    """The words of an answer by SQuAD's rules: lower case, no punctuation, no a, an or the."""
    plain = text.lower().translate(NO_PUNCTUATION)
    return re.sub(r"\b(?:a|an|the)\b", " ", plain).split()


def code_words(text: str) -> list[str]:
    """The words of an answer that is code: names, numbers, and each other character alone.

    By SQuAD's rules `()`, `[]` and `''` would be equal, as all punctuation is left out.
    """
    return re.findall(r"\w+|[^\w\s]", text)


def squad_scores(
    predicted: Sequence[str], answers: Sequence[Sequence[str]], words: Words = squad_words
) -> dict[str, Mean]:
    """Exact match and F1 of SQuAD (Rajpurkar et al., 2016; 2018), as its official script has them.

    For each question a predicted text, "" for none, and the texts of its answers, none where the
    context has no answer; of several answers the best counts. Exact match is the share of the
    predictions that have the words of an answer; F1 is the harmonic mean of precision and recall of
    the words, and 1 for no words where none are right. `words` says what the words of a text are.
    From 0 to 1; the script shows percentages. The means of parts can be added.
    """
    if not len(predicted) == len(answers) > 0:
        raise Error(
            f"There must be a prediction for each question, and at least one; got {len(predicted)} "
            f"predictions and the answers of {len(answers)} questions."
        )
    exact, f1 = np.zeros((2, len(predicted)), np.float32)
    for n, (text, given) in enumerate(zip(predicted, answers, strict=True)):
        found = words(text)
        right = [each for each in map(words, given) if each] or [[]]
        exact[n] = any(found == each for each in right)
        f1[n] = max(_f1(found, each) for each in right)
    return {name: Mean.of(jnp.asarray(x)) for name, x in (("exact_match", exact), ("f1", f1))}


def _f1(found: Sequence[str], right: Sequence[str]) -> float:
    if not found or not right:
        return float(found == right)
    common = (Counter(found) & Counter(right)).total()
    return 2 * common / (len(found) + len(right))
