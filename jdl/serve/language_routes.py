"""Routes of language models: text as it comes, and OpenAI's completions and chat completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from jdl.serve.answers import to_json
from jdl.serve.deployment import Deployment
from jdl.serve.engine import LENGTH, STOP, Engine, Generation, Piece
from jdl.serve.generation_requests import (
    Asked,
    model_of,
    parse_chat,
    parse_completion,
    parse_generate,
)
from jdl.serve.limits import RequestError
from jdl.serve.models import ServedModel
from jdl.serve.openai_format import Chat, Completion, failure
from jdl.serve.requests import LEFT, Share, body_of, disconnected

JSON, EVENTS = "application/json", "text/event-stream"
NO_BUFFER = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # of proxies
BODY = {
    "requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}}},
}


@dataclass(eq=False)
class Answers:
    """The generations that one request asked for, whose pieces come in one loop."""

    engine: Engine
    asked: Asked
    generations: list[Generation] = field(default_factory=list)
    found: asyncio.Queue[tuple[int, Piece]] = field(default_factory=asyncio.Queue)

    def submit(self, deadline: float) -> None:
        """Puts all into the engine's queue, or none: `RequestError` where one is refused."""
        loop = asyncio.get_running_loop()
        try:
            for n, (prompt, options) in enumerate(self.asked.pairs):
                deliver = partial(self._deliver, loop, n)
                self.generations.append(self.engine.submit(prompt, options, deadline, deliver))
        except RequestError:
            self.cancel()
            raise

    def _deliver(self, loop: asyncio.AbstractEventLoop, n: int, piece: Piece) -> None:
        loop.call_soon_threadsafe(self.found.put_nowait, (n, piece))

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """The number of an answer with its next piece, until all have their last one.

        Raises `RequestError` where one has failed.
        """
        left = len(self.generations)
        while left:
            n, piece = await self.found.get()
            if isinstance(piece.error, RequestError):
                raise piece.error
            if piece.error is not None:  # which the engine has logged
                raise RequestError(500, "The server failed: its log says how.")
            left -= piece.last
            yield n, piece

    async def whole(self) -> list[Piece]:
        """Each answer in one piece."""
        parts: list[list[Piece]] = [[] for _ in self.generations]
        async for n, piece in self.pieces():
            parts[n].append(piece)
        return [
            Piece(
                "".join(piece.text for piece in pieces),
                tuple(token for piece in pieces for token in piece.tokens),
                pieces[-1].finish,
            )
            for pieces in parts
        ]

    def cancel(self) -> None:
        """Frees the slots and the places in the queue."""
        for generation in self.generations:
            self.engine.cancel(generation)

    @property
    def prompt_tokens(self) -> int:
        """The number of tokens of all prompts."""
        return sum(map(len, self.asked.prompts))

    @property
    def new_tokens(self) -> int:
        """The number of tokens that were generated until now."""
        return sum(generation.count for generation in self.generations)


class EventStream(StreamingResponse):
    """Server-sent events of answers, which are cancelled when the client leaves."""

    def __init__(self, answers: Answers, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type=EVENTS, headers=NO_BUFFER)
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answers.cancel()


def language_routes(deployment: Deployment) -> APIRouter:
    """The routes of a deployment's language models."""
    return LanguageRoutes(deployment).router()


@dataclass(frozen=True, eq=False)
class LanguageRoutes:
    """Routes of text generation."""

    deployment: Deployment

    def router(self) -> APIRouter:
        """Its routes."""
        router = APIRouter(prefix="/v1", tags=["text generation"])
        for path, function, summary in (
            ("/models/{name}/generate", self.generate, "Text after a prompt, whole or as events."),
            ("/models/{name}/versions/{version}/generate", self.generate, "The same of a version."),
            ("/completions", self.completions, "OpenAI's completions."),
            ("/chat/completions", self.chat, "OpenAI's chat completions, of chat models."),
        ):
            router.add_api_route(
                path, function, methods=["POST"], summary=summary, openapi_extra=BODY
            )
        return router

    async def generate(self, request: Request, name: str, version: str | None = None) -> Response:
        """Text after a prompt: {"prompt": ..., "max_new_tokens": ..., "stream": ...}."""
        served = self.deployment
        model = served.models.find(name, version)
        engine = served.engine(model)
        deadline = time.monotonic() + served.limits.generation_timeout
        async with self._body(request) as (body, _):
            asked = await served.threads.call(len(body), parse_generate, body, model, served.limits)
        answers = Answers(engine, asked)
        answers.submit(deadline)
        if asked.stream:
            return EventStream(answers, _guarded(_events(model, answers)))
        (piece,) = await _whole(request, answers)
        return _json(_own_form(model, answers, piece))

    async def completions(self, request: Request) -> Response:
        """Texts after prompts."""
        return await _in_openai_shape(self._openai(request, parse_completion, Completion))

    async def chat(self, request: Request) -> Response:
        """The assistant's answer to messages."""
        return await _in_openai_shape(self._openai(request, parse_chat, Chat))

    async def _openai(
        self,
        request: Request,
        parse: Callable[..., Asked],
        form: type[Completion] | type[Chat],
    ) -> Response:
        served = self.deployment
        deadline = time.monotonic() + served.limits.generation_timeout
        async with self._body(request) as (body, _):
            document, name, version = await served.threads.call(len(body), model_of, body)
            model = served.models.find(name, version)
            engine = served.engine(model)
            asked = await served.threads.call(len(body), parse, document, model, served.limits)
        answers = Answers(engine, asked)
        answers.submit(deadline)
        shown = form(model.name, int(time.time()))
        if asked.stream:
            return EventStream(answers, _guarded(_openai_events(shown, answers)))
        pieces = await _whole(request, answers)
        return _json(shown.whole(pieces, answers.prompt_tokens, answers.new_tokens))

    def _body(self, request: Request) -> AbstractAsyncContextManager[tuple[bytes, Share]]:
        """The body, whose memory is held as long as it is parsed."""
        served = self.deployment
        deadline = time.monotonic() + served.limits.timeout
        return body_of(request, served.limits, served.memory, deadline)


async def _whole(request: Request, answers: Answers) -> list[Piece]:
    """The answers when they are whole; `RequestError` 499 when the client has left."""
    left = asyncio.ensure_future(disconnected(request))
    whole = asyncio.ensure_future(answers.whole())
    try:
        await asyncio.wait((whole, left), return_when=asyncio.FIRST_COMPLETED)
        if not whole.done():
            raise LEFT
        return whole.result()
    finally:
        left.cancel()
        whole.cancel()
        answers.cancel()


def _own_form(model: ServedModel, answers: Answers, piece: Piece) -> dict[str, Any]:
    return {
        "model": model.name,
        "version": model.version,
        "text": piece.text,
        "tokens": piece.tokens,
        "finish_reason": piece.finish,
        "seed": answers.asked.options[0].seed,
        "usage": {"prompt_tokens": answers.prompt_tokens, "new_tokens": answers.new_tokens},
    }


async def _events(model: ServedModel, answers: Answers) -> AsyncIterator[bytes]:
    """Text and tokens as they come; the last event says why it ended."""
    async for _, piece in answers.pieces():
        if piece.last:
            yield _event(_own_form(model, answers, piece))
        else:
            yield _event({"text": piece.text, "tokens": piece.tokens})


async def _openai_events(form: Completion | Chat, answers: Answers) -> AsyncIterator[bytes]:
    usage = answers.asked.usage
    for n in range(len(answers.generations)):
        if (begin := form.begin(n)) is not None:
            yield _event(begin)
    async for n, piece in answers.pieces():
        if piece.text:
            yield _event(form.part(n, piece.text))
        if piece.last:
            yield _event(form.end(n, STOP if piece.finish == STOP else LENGTH))
    if usage:
        yield _event(form.usage(answers.prompt_tokens, answers.new_tokens))
    yield b"data: [DONE]\n\n"


async def _guarded(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events; where the answer fails, the last one says so: the status was sent before."""
    try:
        async for event in events:
            yield event
    except RequestError as error:
        yield _event(failure(error.status, error.message))


async def _in_openai_shape(response: Awaitable[Response]) -> Response:
    """The response; an error that is the client's, in OpenAI's shape."""
    try:
        return await response
    except RequestError as error:
        status = 400 if error.status == 422 else error.status
        return Response(to_json(failure(status, error.message)), status, dict(error.headers), JSON)


def _event(document: Any) -> bytes:
    return b"data: " + to_json(document) + b"\n\n"


def _json(document: Any) -> Response:
    return Response(to_json(document), media_type=JSON)
