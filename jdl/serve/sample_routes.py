"""Routes of generative models: samples of a seed, as JSON, as an array or as a picture."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from jdl.figures.samples import png
from jdl.serve.answers import as_list, to_json
from jdl.serve.deployment import Deployment
from jdl.serve.fields import SEEDS
from jdl.serve.limits import RequestError
from jdl.serve.models import Columns, ServedModel
from jdl.serve.sample_requests import (
    DEFAULT_SAMPLES,
    JSON,
    NPY,
    PNG,
    accepted,
    parse_samples,
    refusal,
)

LABEL = {"type": "integer", "minimum": 0}
SEED = {"type": "integer", "minimum": 0, "maximum": SEEDS - 1}
ROWS = {"type": "array", "items": {"type": "array", "items": {}}}


def describe(max_rows: int) -> dict[str, Any]:
    """What OpenAPI says of the route: the body, and the answers."""
    n = {"type": "integer", "minimum": 1, "maximum": max_rows}
    about = f"The number of samples: that of a list y, or {min(DEFAULT_SAMPLES, max_rows)}."
    given = {
        "n": {**n, "description": about},
        "seed": SEED,
        "y": {"oneOf": [LABEL, {"type": "array", "items": LABEL}]},
        "z": ROWS,
    }
    answer = {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "seed": SEED,
        "y": {"type": "array", "items": LABEL},
        "samples": ROWS,
    }
    required = ["model", "version", "samples"]
    contents = {
        JSON: {"schema": {"type": "object", "properties": answer, "required": required}},
        **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in (NPY, PNG)},
    }
    schema = {"type": "object", "properties": given, "additionalProperties": False}
    return {
        "requestBody": {"required": True, "content": {JSON: {"schema": schema}}},
        "responses": {
            "200": {
                "description": "The samples, of the type that Accept prefers.",
                "headers": {"Seed": {"schema": SEED}},
                "content": contents,
            },
            "404": {"description": "There is no such model."},
            "406": {"description": "No type of samples is accepted."},
            "422": {"description": "A field is wrong, or the model is not sampled."},
        },
    }


@dataclass(frozen=True, eq=False)
class SampleRoutes:
    """The routes under /v1/models that sample."""

    deployment: Deployment

    def router(self) -> APIRouter:
        """Its routes."""
        router = APIRouter(prefix="/v1", tags=["samples"])
        about = describe(self.deployment.limits.max_rows)
        for path in ("/models/{name}", "/models/{name}/versions/{version}"):
            router.add_api_route(
                f"{path}/sample",
                self.sample,
                methods=["POST"],
                summary="Samples of a generative model: images, or other rows.",
                openapi_extra=about,
            )
        return router

    async def sample(self, request: Request, name: str, version: str | None = None) -> Response:
        """Samples: {"n": ..., "seed": ..., "y": ...}, or of latents {"z": ..., "y": ...}."""
        model = self.deployment.models.find(name, version)
        if (why := refusal(model)) is not None:
            raise RequestError(422, why)
        kind = accepted(request.headers.get("accept", ""))
        content, headers = await self.deployment.compute(
            request, model, "generate", partial(parse_samples, kind), partial(_write, model, kind)
        )
        return Response(content, headers=headers, media_type=kind)


def _write(
    model: ServedModel, kind: str, about: dict[str, Any], outputs: Columns
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer and its headers."""
    headers = {"Seed": str(about["seed"])} if "seed" in about else {}
    x = outputs["x"]
    if kind == PNG:
        return png(x), headers
    if kind == NPY:
        file = io.BytesIO()
        np.save(file, x)
        return file.getvalue(), headers
    head = {"model": model.name, "version": model.version, **about}
    return to_json({**head, "samples": as_list(x)}), headers
