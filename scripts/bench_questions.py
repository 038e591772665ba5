"""Baselines of `stdlib_questions`: guesses of the right kind, which do not read the question."""

import platform
from collections import Counter

import numpy as np

import jdl
from jdl.data.order import uniforms
from jdl.data.stdlib_questions import WORDINGS, signatures
from jdl.metrics import code_words, squad_scores

train, _, test = jdl.data.stdlib_questions()
OF_DEFAULTS = tuple(
    wording.split("{")[0] for kind in ("default", "nothing") for wording in WORDINGS[kind]
)


def given(data):
    """The texts of the answers to each question."""
    return [[text for text, _ in question.answers] for question in data.questions]


def guesses(question):
    """All defaults of the signature, or all names of parameters, as the wording asks for."""
    (signature,) = signatures(f"{question.context} pass")
    if question.question.startswith(OF_DEFAULTS):
        return [one.default.text for one in signature.parameters if one.default] or [""]
    return [one.name.text for one in signature.parameters]


answers = given(test)
contexts = {question.context for question in test.questions}
among, draws = [guesses(one) for one in test.questions], uniforms(len(test), seed=0)
(most, _), *_ = Counter(answer[0] for answer in given(train) if answer).most_common(1)
methods = {
    f"always {most}": [most] * len(answers),
    "the first default, or the first parameter": [choices[0] for choices in among],
    "any default, or any parameter": [
        choices[int(draw * len(choices))] for choices, draw in zip(among, draws, strict=True)
    ],
}
print(
    f"Python {platform.python_version()}: {len(train):,} questions to learn from, {len(test):,} to "
    f"be judged by, about {len(contexts):,} signatures; {np.mean([not a for a in answers]):.1%} "
    "without an answer"
)
for name, predicted in methods.items():
    scores = squad_scores(predicted, answers, code_words)
    shown = ", ".join(f"{score} {float(mean.value()):.3f}" for score, mean in scores.items())
    print(f"{name:<42} {shown}")
