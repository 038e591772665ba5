"""The application of a server (ASGI): routes, errors, health."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from jdl.serve.limits import Limits, RequestError
from jdl.serve.models import load_models


def app(folders: Sequence[Path | str], limits: Limits | None = None) -> FastAPI:
    """The FastAPI application that serves the exported models of some folders."""
    limits = limits or Limits()
    models = load_models(folders)
    application = FastAPI(title="jdl serve", docs_url=None, redoc_url=None)
    application.add_exception_handler(RequestError, _refuse)
    application.state.models = models
    # Each room of routes is a router: application.include_router(language_routes(models, limits))
    return application


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """A refused request's status and message, {"error": ...}."""
    assert isinstance(error, RequestError)
    return JSONResponse({"error": error.message}, error.status, dict(error.headers))
