"""The application of a server (ASGI): routes, errors, health."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from jdl.serve.counters import TEXT
from jdl.serve.deployment import Deployment, deploy
from jdl.serve.guard import Guard
from jdl.serve.inference_routes import InferenceRoutes
from jdl.serve.language_routes import language_routes
from jdl.serve.limits import Limits, RequestError
from jdl.serve.models import load_models
from jdl.serve.page_routes import page_routes
from jdl.serve.predict_routes import PredictRoutes
from jdl.serve.sample_routes import SampleRoutes

log = logging.getLogger("jdl.serve")
ABOUT = "Exported models: predictions with dynamic batching."


def app(
    folders: Sequence[Path | str], limits: Limits | None = None, token: str | None = None
) -> FastAPI:
    """The application that serves the exported models of some folders, for any ASGI server.

    Each is verified first; `Error` where one has changed since it was exported. When the
    application starts it compiles every bucket, and is ready then. With a `token`, requests must
    have it as their bearer token.
    """
    limits = limits or Limits()
    models = load_models(folders)
    served = deploy(models, limits)
    application = FastAPI(
        title="jdl serve",
        description=ABOUT,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_Lifespan(served),
    )
    application.state.deployment = served
    application.add_exception_handler(RequestError, _refuse)
    application.add_exception_handler(HTTPException, _refuse)
    application.add_exception_handler(Exception, _fail)
    for router in (
        page_routes(),
        HealthRoutes(served).router(),
        PredictRoutes(served).router(),
        SampleRoutes(served).router(),
        InferenceRoutes(served).router(),
        language_routes(served),
    ):
        application.include_router(router)
    application.add_middleware(Guard, counters=served.counters, token=token)
    return application


@dataclass(frozen=True)
class _Lifespan:
    """Starts a deployment with its application, and ends it with it."""

    served: Deployment

    @asynccontextmanager
    async def __call__(self, application: FastAPI) -> AsyncIterator[None]:
        self.served.start()
        yield
        self.served.close()


@dataclass(frozen=True, eq=False)
class HealthRoutes:
    """Routes for who runs the server: whether it lives, whether it is ready, and its metrics."""

    deployment: Deployment

    def router(self) -> APIRouter:
        """Its routes."""
        router = APIRouter(tags=["health"])
        router.add_api_route("/healthz", self.live, summary="Whether the server lives.")
        router.add_api_route("/readyz", self.ready, summary="Whether every bucket is warm.")
        router.add_api_route("/metrics", self.metrics, summary="Metrics, as Prometheus reads them.")
        return router

    async def live(self) -> Response:
        """200 as long as the server answers; 503 where a model cannot be computed."""
        state = self.deployment.state
        return JSONResponse({"state": state}, 503 if state == "failed" else 200)

    async def ready(self) -> Response:
        """200 when requests are computed without compiling, 503 before."""
        self.deployment.check_ready()
        return JSONResponse({"state": "ready"})

    async def metrics(self) -> Response:
        """Prometheus' text format."""
        return PlainTextResponse(self.deployment.metrics(), media_type=TEXT)


async def _refuse(request: Request, error: Exception) -> Response:
    """The status and message of a refused request: {"error": ...}."""
    if isinstance(error, HTTPException):  # of the framework: no such route, or method
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    assert isinstance(error, RequestError)
    return JSONResponse({"error": error.message}, error.status, dict(error.headers))


async def _fail(request: Request, error: Exception) -> Response:
    """500: a defect of the server, whose traceback is logged and not shown."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    headers = {"X-Content-Type-Options": "nosniff", "Connection": "close"}  # as uvicorn does
    return JSONResponse({"error": "The server failed: its log says how."}, 500, headers)
