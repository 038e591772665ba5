"""What a client asks of a language model, parsed and checked: prompts, options and streaming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jdl.data.dialogues import prompt_tokens
from jdl.serve.engine import Options
from jdl.serve.fields import SEEDS, as_object, check_names, flag_of, number_of, seed_of, wrong
from jdl.serve.inputs import parse_json
from jdl.serve.limits import Limits, RequestError
from jdl.serve.models import ServedModel
from jdl.types import Error

DEFAULT_TOKENS = 128  # new tokens of an answer that says nothing of them
OWN_FIELDS = (
    "prompt",
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "stop",
    "stream",
)
# Of OpenAI's, those that would change the answer and cannot be obeyed, with what asks for nothing.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
}


@dataclass(frozen=True)
class Asked:
    """Prompts with the options of each, and how the answers are to come."""

    prompts: tuple[tuple[int, ...], ...]
    options: tuple[Options, ...]
    stream: bool = False
    usage: bool = False  # at the end of a stream
    choices: int = 1  # answers to each prompt

    @property
    def pairs(self) -> list[tuple[tuple[int, ...], Options]]:
        """Each answer's prompt and options: those to the first prompt come first."""
        repeated = [prompt for prompt in self.prompts for _ in range(self.choices)]
        return list(zip(repeated, self.options, strict=True))


def parse_generate(body: bytes, model: ServedModel, limits: Limits) -> Asked:
    """The body of `/generate`: `RequestError` 422 where a field is unknown or wrong."""
    document = as_object(parse_json(body))
    check_names(document, OWN_FIELDS)
    prompt = _prompt(document.get("prompt"), model, limits)
    options = _options(document, "max_new_tokens", DEFAULT_TOKENS, limits)
    return Asked((prompt,), (options,), flag_of(document, "stream"))


def model_of(body: bytes) -> tuple[dict[str, Any], str, str | None]:
    """A document of OpenAI's form, with the name of its model and the version: "name@version"."""
    document = as_object(parse_json(body))
    name = document.get("model")
    if not isinstance(name, str):
        raise wrong("model, the name of a model, is missing.")
    name, _, version = name.partition("@")
    return document, name, version or None


def parse_completion(document: dict[str, Any], model: ServedModel, limits: Limits) -> Asked:
    """A document of OpenAI's completions: one prompt or several, each a text or tokens."""
    prompt: Any = document.get("prompt")
    several = isinstance(prompt, list) and (not prompt or not isinstance(prompt[0], int))
    given: list[Any] = prompt if several else [prompt]
    if not given or len(given) > limits.queue:
        raise wrong(f"prompt must be of 1 to {limits.queue} prompts, not {len(given):,}.")
    prompts = tuple(_prompt(one, model, limits) for one in given)
    return _asked(document, prompts, _options(document, "max_tokens", 16, limits), limits)


def parse_chat(document: dict[str, Any], model: ServedModel, limits: Limits) -> Asked:
    """A document of OpenAI's chat completions: messages, by the model's chat template."""
    chat, tokenizer = model.manifest.get("chat"), model.tokenizer
    if chat is None or tokenizer is None:
        raise RequestError(
            400,
            f"{model.name} is no chat model: it was not trained on jdl.data.dialogues, or was "
            "exported by an older jdl. /v1/completions continues texts.",
        )
    messages = _messages(document.get("messages"), limits)
    try:
        prompt = tuple(prompt_tokens(tokenizer, messages).tolist())
    except Error as error:
        raise wrong(str(error)) from None
    if messages[-1]["role"] != "user":
        raise wrong("An answer follows a message of the user: let the last one be the user's.")
    newer = document.get("max_completion_tokens") is not None
    most = "max_completion_tokens" if newer else "max_tokens"
    options = _options(document, most, limits.max_new_tokens, limits)
    # A token of a role, which no answer has, ends it like the end token.
    ends = frozenset([tokenizer.eos_id, *chat["roles"].values()])
    return _asked(document, (prompt,), replace(options, stop_tokens=ends), limits)


def _asked(
    document: Mapping[str, Any],
    prompts: tuple[tuple[int, ...], ...],
    options: Options,
    limits: Limits,
) -> Asked:
    """What both of OpenAI's forms have in common."""
    for name, nothing in UNSUPPORTED.items():
        if document.get(name) is not None and document[name] not in nothing:
            raise wrong(f"{name} is not supported: leave it out.")
    choices = int(number_of(document, "n", 1, 1, max(1, limits.queue // len(prompts)), whole=True))
    streaming = document.get("stream_options")
    streaming = {} if streaming is None else as_object(streaming, "stream_options")
    seeds = (options.seed + n for n in range(len(prompts) * choices))
    return Asked(
        prompts,
        tuple(replace(options, seed=seed % SEEDS) for seed in seeds),
        flag_of(document, "stream"),
        flag_of(streaming, "include_usage"),
        choices,
    )


def _options(document: Mapping[str, Any], most: str, default: int, limits: Limits) -> Options:
    """The options by the names that both forms share; `most` names the number of new tokens."""
    whole = limits.max_new_tokens
    return Options(
        int(number_of(document, most, min(default, whole), 1, whole, whole=True)),
        float(number_of(document, "temperature", 1.0, 0.0, 100.0)),
        int(number_of(document, "top_k", 0, 0, SEEDS - 1, whole=True)),
        _top_p(document),
        seed_of(document),
        _stop(document.get("stop")),
    )


def _top_p(document: Mapping[str, Any]) -> float:
    top_p = float(number_of(document, "top_p", 1.0, 0.0, 1.0))
    if not top_p:
        raise wrong("top_p must be above 0; for the most likely token, use temperature 0.")
    return top_p


def _stop(given: Any) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else given or []
    if not isinstance(stops, list) or len(stops) > 16:
        raise wrong("stop must be a text, or a list of at most 16.")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= 1000:
            raise wrong("stop must be of texts of 1 to 1000 characters.")
    return tuple(stops)


def _prompt(given: Any, model: ServedModel, limits: Limits) -> tuple[int, ...]:
    """The tokens of a prompt, which is a text after the end of another, or tokens."""
    if isinstance(given, list) and all(type(token) is int for token in given):
        return tuple(given)
    if not isinstance(given, str):
        raise wrong("prompt must be a text, or a list of tokens.")
    if model.tokenizer is None:
        raise wrong(f"{model.name} has no tokenizer: give the prompt as a list of tokens.")
    text = _text(given, "prompt", limits)
    return (model.tokenizer.eos_id, *model.tokenizer.encode(text).tolist())


def _text(text: str, name: str, limits: Limits) -> str:
    if len(text) > limits.max_text:
        raise wrong(f"{name} has {len(text):,} characters, and at most {limits.max_text:,} fit.")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise wrong(f"{name} is no Unicode: it has half a surrogate pair.")
    return text


def _messages(given: Any, limits: Limits) -> list[dict[str, Any]]:
    """Messages with a role and a text each; OpenAI's "developer" is the system."""
    if not isinstance(given, list) or not given or len(given) > limits.max_rows:
        raise wrong(f"messages must be a list of 1 to {limits.max_rows:,} messages.")
    return [
        {
            "role": "system" if message.get("role") == "developer" else message.get("role"),
            "content": _content(message.get("content"), n, limits),
        }
        for n, message in enumerate(as_object(one, f"message {n}") for n, one in enumerate(given))
    ]


def _content(given: Any, n: int, limits: Limits) -> str:
    """The text of a message: a string, or a list of parts of the type text."""
    parts = [{"type": "text", "text": given}] if isinstance(given, str) else given
    if not isinstance(parts, list):
        raise wrong(f"message {n} has no text.")
    texts = []
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise wrong(f"message {n} must be of text: the model reads nothing else.")
        texts.append(part["text"])
    return _text("".join(texts), f"message {n}", limits)
