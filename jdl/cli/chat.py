"""`jdl chat`: a conversation with a language model in the terminal."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from jdl.cli.arguments import Best, Draws, Root, RunName, Temperature, TopK, TopP
from jdl.errors import Error

NEW = "/new"


def chat(
    run: RunName,
    system: Annotated[
        str, tyro.conf.arg(help="The system prompt: a message of the system, before yours.")
    ] = "",
    tokens: Annotated[int, tyro.conf.arg(help="The most tokens of an answer.")] = 200,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: Draws = 0,
    root: Root = Path("runs"),
    best: Best = False,
) -> None:
    """Chat with a model that was trained on dialogues. A line is a message; /new begins anew.

    A line that ends with a backslash goes on in the next one.
    Ctrl-C ends an answer, Ctrl-D the conversation. Lines may also come from a pipe.
    """
    from jdl import sampling
    from jdl.cli.startup import set_up_jax
    from jdl.inspect.chat import reply
    from jdl.inspect.restore import restore
    from jdl.keys import stream
    from jdl.store.catalog import find

    set_up_jax()
    import jax

    sampler = sampling.sample_token(temperature, top_k, top_p) if temperature else sampling.greedy
    trained = restore(find(run, root), best=best)
    start = [{"role": "system", "content": system}] if system else []
    messages = start
    for n, line in enumerate(_messages()):
        if line == NEW:
            messages = start
            continue
        asked = [*messages, {"role": "user", "content": line}]
        key = jax.random.fold_in(stream(jax.random.key(seed), "chat"), n)
        try:
            answer = _print(reply(trained, asked, sampler, tokens, key))
        except Error as error:
            if not sys.stdin.isatty():
                raise
            print(error, file=sys.stderr)  # the conversation goes on without this message
            continue
        if answer.strip():
            messages = [*asked, {"role": "assistant", "content": answer}]


def _messages() -> Iterator[str]:
    """The messages of the user, a line each, without blank ones, up to the end of the input.

    After a line that ends with a backslash, the message goes on in the next one.
    """
    message = ""
    while True:
        try:
            line = input(("... " if message else "> ") if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.endswith("\\"):
            message += line[:-1] + "\n"
            continue
        message += line
        if message.strip():
            yield message.strip()
        message = ""


def _print(pieces: Iterator[str]) -> str:
    """Prints an answer as it comes, and returns what was printed; Ctrl-C ends it."""
    answer = ""
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
            answer += piece
    except KeyboardInterrupt:
        pass
    print()
    return answer
