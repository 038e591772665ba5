"""Dialogues about the signatures of functions of Python's standard library."""

from __future__ import annotations

from collections.abc import Sequence

from jdl.data.dialogues import Dialogues, Message, dialogues
from jdl.data.question_files import Question
from jdl.data.stdlib_questions import ask, split_signatures

LETTERS = 80  # of a signature
MOST = 6  # questions of a dialogue
MAX_LENGTH = 320  # tokens, which are bytes
NOTHING = "There is none."


def stdlib_dialogues() -> tuple[Dialogues, Dialogues, Dialogues]:
    """Dialogues about functions of Python's standard library, as `dialogues` makes them.

    Returns datasets (train, valid, test). The user's first message is a signature and a question
    about it, and the later ones are further questions about it; the assistant answers with a part
    of the signature, or that there is none. Signatures, questions and splits are those of
    `stdlib_questions`: the signatures and answers are real, the questions composed, and a
    signature is in one part alone. Tokens are bytes.
    """
    parts = [
        [ask(one)[:MOST] for one in part if len(one.source) <= LETTERS]
        for part in split_signatures()
    ]
    talks = [[_dialogue(questions) for questions in part if questions] for part in parts]
    train, valid, test = dialogues(*talks, max_length=MAX_LENGTH)
    return train, valid, test


def _dialogue(questions: Sequence[Question]) -> list[Message]:
    """The questions about one signature as a dialogue, those that fit into `MAX_LENGTH` tokens."""
    messages: list[Message] = []
    room = MAX_LENGTH
    for n, question in enumerate(questions):
        asked = question.question if n else f"{question.context}\n{question.question}"
        answer = question.answers[0].text if question.answers else NOTHING
        room -= len(asked.encode()) + len(answer.encode()) + 4  # roles and ends
        if room < 0:
            break
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answer})
    return messages
