"""Requests as they come: bodies within limits of size, time and memory, and clients that leave."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from jdl.serve.batching import Batcher
from jdl.serve.limits import Limits, RequestError, busy
from jdl.serve.models import Columns

T = TypeVar("T")
SMALL = 1 << 14  # bytes that are parsed in the loop: a thread costs more
CLOSE = {"Connection": "close"}  # what is left of a body is not read
LEFT = RequestError(499, "The client has left.")  # nobody reads it


@dataclass(eq=False)
class Memory:
    """The bytes that requests hold together: bodies that are read, and rows that wait."""

    most: int
    used: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(eq=False)
class Share:
    """What one request holds of the memory, until it is given back."""

    memory: Memory
    held: int = 0

    def take(self, size: int) -> None:
        """Takes bytes, in any thread.

        Raises `RequestError`: 503 where there are no more, 413 where there never are for one.
        """
        memory = self.memory
        if self.held + size > memory.most:
            raise RequestError(
                413, f"A request has at most {memory.most:,} bytes, its padding included.", CLOSE
            )
        with memory.lock:
            if memory.used + size > memory.most:
                raise busy("The server's memory for requests is full: try again.")
            memory.used += size
        self.held += size

    def give(self) -> None:
        """Gives all bytes back."""
        with self.memory.lock:
            self.memory.used -= self.held
        self.held = 0


@asynccontextmanager
async def body_of(
    request: Request, limits: Limits, memory: Memory, deadline: float
) -> AsyncIterator[tuple[bytes, Share]]:
    """The body of a request, with its share of `memory` as long as the body is used.

    Raises `RequestError`: 413 where it is too long, 408 where it is not there in time, 503 where
    all requests together are too large.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.max_body:
        raise _too_long(limits)
    parts: list[bytes] = []
    share = Share(memory)
    try:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                async for part in request.stream():
                    if share.held + len(part) > limits.max_body:
                        raise _too_long(limits)
                    share.take(len(part))
                    parts.append(part)
        except TimeoutError:
            raise RequestError(408, "The body did not come in time.", CLOSE) from None
        except ClientDisconnect:
            raise LEFT from None
        yield b"".join(parts), share
    finally:
        share.give()


def _too_long(limits: Limits) -> RequestError:
    return RequestError(413, f"A body has at most {limits.max_body:,} bytes.", CLOSE)


@dataclass(frozen=True)
class Threads:
    """Two threads for what would hold up the loop: large bodies and large answers."""

    pool: ThreadPoolExecutor

    async def call(self, size: int, function: Callable[..., T], *arguments: Any) -> T:
        """Calls a function here, or in a thread where what it works on is large."""
        if size <= SMALL:
            return function(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, partial(function, *arguments))


async def answer(
    request: Request, batcher: Batcher, columns: Columns, memory: Memory, deadline: float
) -> Columns:
    """The outputs for columns, by way of the batcher's queue.

    Raises `RequestError`: 503 where the queue is full, 504 after the deadline, 499 where the client
    has left, whose place is then free.
    """
    share = Share(memory)
    share.take(sum(column.nbytes for column in columns.values()))
    try:
        job = batcher.submit(columns, deadline)
        left = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait(
                (job.future, left),
                timeout=max(0.0, deadline - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if job.future.done():
                return job.future.result()
            if left.done():
                raise LEFT
            raise RequestError(504, "The answer took too long.")
        finally:
            left.cancel()
            batcher.forget(job)
            job.future.cancel()
    finally:
        share.give()


async def disconnected(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
