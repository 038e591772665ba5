"""Runs the application by uvicorn: limits of connections and headers, and an end without loss."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware.trustedhost import TrustedHostMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from jdl.types import Error

HEADER_BYTES = 1 << 15  # of a request's address and headers
HEADER_SECONDS = 10.0  # from the connection, or from an answer on
READ_SECONDS = 30.0  # in which a client must read something of its answer
CONNECTIONS = 1024  # more are answered 503
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")  # not those of DNS rebinding
DRAIN_SECONDS = 60  # for answers to what is in, once SIGTERM came


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 that closes connections whose client is too slow, or does not read (Slowloris).

    From the connection, and from each answer on, there is a time for all that comes until the next
    headers are complete, a body that was answered before it was read included; and those headers
    have a length.
    """

    _timer: asyncio.TimerHandle | None = None  # until headers are complete
    _unread: asyncio.TimerHandle | None = None  # as long as the client has not read all
    _bytes = 0  # of the headers until now
    _in_body = False

    def connection_made(self, transport: Any) -> None:
        """The headers must come from now on."""
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected any more."""
        self._stop_timer()
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A part of a request; headers that go on after so many bytes are refused."""
        in_body = self._in_body
        super().data_received(data)
        self._bytes = 0 if in_body or self._timer is None else self._bytes + len(data)
        if self._bytes > HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._expect_headers()

    def on_headers_complete(self) -> None:
        """The headers are there: what follows has the deadline of the request."""
        self._stop_timer()
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request ends."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer ends: what is left of its request has no other deadline."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._expect_headers()
        self._expect_reading()

    def pause_writing(self) -> None:
        """More waits for the client than is buffered: it must read."""
        super().pause_writing()
        self._expect_reading()

    def _expect_headers(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expect_reading(self) -> None:
        if self._unread is None and (size := self.transport.get_write_buffer_size()):
            self._unread = self.loop.call_later(READ_SECONDS, self._check_reading, size)

    def _check_reading(self, before: int) -> None:
        """Drops the connection of a client that has read nothing since."""
        self._unread = None
        if self.transport.get_write_buffer_size() == before:
            self.transport.abort()
        self._expect_reading()


def run(
    application: Starlette,
    host: str,
    port: int,
    guarded: bool,
    drain_seconds: int = DRAIN_SECONDS,
) -> None:
    """Serves until SIGTERM or Ctrl-C; then answers what is in, `drain_seconds` long, and returns.

    Raises `Error` where the address cannot be bound. Prints the address, and who can reach it.
    """
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        http=Protocol,
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=drain_seconds,
    )
    listener = _bound(host, port)
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    if not guarded and ipaddress.ip_address(address).is_loopback:
        application.add_middleware(
            TrustedHostMiddleware, allowed_hosts=LOCAL_NAMES, www_redirect=False
        )
    print(f"http://{shown}:{port} {_reach(address, guarded)}", flush=True)
    signal.signal(signal.SIGTERM, _nothing)  # uvicorn raises it once more when it is done
    uvicorn.Server(config).run([listener])


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens at an address."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise Error(f"{host}, port {port}, cannot be bound: {error}.") from error


def _reach(address: str, guarded: bool) -> str:
    """Who can send requests, in words."""
    if ipaddress.ip_address(address).is_loopback:
        return "takes requests of this machine alone"
    if guarded:
        return "takes requests of whoever reaches this machine and has the token"
    return "takes requests of whoever reaches this machine, without a token: see --token-file"


def _nothing(number: int, frame: Any) -> None:
    pass
