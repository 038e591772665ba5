"""Chatting with a trained run: answers of the assistant, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

import jax

from jdl import sampling
from jdl.data.dialogues import Message, Messages, prompt_tokens
from jdl.inspect.restore import TrainedRun
from jdl.inspect.sample import decoder_of
from jdl.types import DecodesTokens, Error, Key, Tokenizer


def reply(
    trained: TrainedRun,
    messages: Messages,
    sampler: sampling.TokenSampler = sampling.greedy,
    tokens: int = 200,
    key: Key | None = None,
) -> Iterator[str]:
    """The assistant's answer to messages, {"role", "content"} each, in pieces as they are made.

    It has up to `tokens` tokens, and fewer where the model's KV cache is full. If the messages
    leave less than half of the KV cache for it, the oldest ones are not read, but for that of the
    system. Raises `Error` for a run that was not trained on `jdl.data.dialogues`, and where the
    last message alone is too long.
    """
    objective, tokenizer = _chat_model(trained)
    if tokens < 1:
        raise Error(f"tokens, the most of an answer, must be at least 1, not {tokens}.")
    if messages and messages[-1].get("role") != "user":
        raise Error("An answer follows a message of the user: let the last one be the user's.")
    prompt = prompt_tokens(tokenizer, messages)
    if objective.max_length is not None:
        longest = objective.max_length + 1
        room = min(tokens, longest // 2)
        while len(prompt) + room > longest:
            messages = _without_oldest(messages, len(prompt), longest - room)
            prompt = prompt_tokens(tokenizer, messages)
        tokens = min(tokens, longest - len(prompt))
    key = jax.random.key(0) if key is None else key
    made = sampling.stream(
        objective, trained.variables, prompt, tokens, sampler, key, tokenizer.eos_id
    )
    # A token of a role, which no answer has, ends it like the end token.
    return sampling.decode_stream(tokenizer, takewhile(lambda n: n < tokenizer.vocab_size, made))


def _chat_model(trained: TrainedRun) -> tuple[DecodesTokens, Tokenizer]:
    objective, tokenizer = trained.objective, trained.run.tokenizer
    dialogues = "loss_mask" in trained.run.train.spec
    if not isinstance(objective, DecodesTokens) or tokenizer is None or not dialogues:
        raise Error(
            f"{trained.run.config.name} is no chat model. `jdl chat` needs a run with data of "
            "jdl.data.dialogues, the objective next_token, and Run(tokenizer=...); `jdl sample` "
            "writes text with any language model."
        )
    return decoder_of(trained), tokenizer


def _without_oldest(messages: Messages, length: int, room: int) -> list[Message]:
    """The messages without the user's oldest one and the answer to it."""
    first = messages[:1] if messages[0]["role"] == "system" else []
    later = messages[len(first) + 1 :]
    if later and later[0]["role"] == "assistant":
        later = later[1:]
    if not later:
        raise Error(
            f"The message has {length} tokens with the system's, and the model reads {room} at "
            "most: shorten it, or train with a larger TransformerConfig.max_length."
        )
    return [*first, *later]
