"""What stands before every route: the bearer token, the headers of safety, and the counters."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jdl.serve.counters import Counters

HEALTH = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
OPEN = ("/", "/docs", "/openapi.json", *HEALTH)  # without a token: they say nothing of the models


@dataclass(frozen=True)
class Guard:
    """ASGI middleware that asks for a token, where there is one, and counts the answers."""

    app: ASGIApp
    counters: Counters
    token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            if self.token is None or scope["path"] in OPEN or self._allows(scope):
                await self.app(scope, receive, sent)
            else:
                await _unauthorized(scope, receive, sent)
        except Exception:
            status = 500
            raise
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.counters.count(route, status, time.perf_counter() - start)

    def _allows(self, scope: Scope) -> bool:
        """Whether a request has the token, compared in constant time."""
        given = next((value for key, value in scope["headers"] if key == b"authorization"), b"")
        assert self.token is not None
        return hmac.compare_digest(given, b"Bearer " + self.token.encode())


async def _unauthorized(scope: Scope, receive: Receive, send: Send) -> None:
    message = "A bearer token is needed: Authorization: Bearer TOKEN."
    response = JSONResponse({"error": message}, 401, {"WWW-Authenticate": "Bearer"})
    await response(scope, receive, send)
