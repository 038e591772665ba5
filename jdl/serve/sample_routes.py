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
from jdl.serve.limits import RequestError
from jdl.serve.models import Columns, ServedModel
from jdl.serve.sample_requests import JSON, NPY, PNG, accepted, parse_samples, refusal

WHOLE = {"type": "integer", "minimum": 0}
ABOUT = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "n": {"type": "integer", "minimum": 1},
                        "seed": WHOLE,
                        "y": {"oneOf": [WHOLE, {"type": "array", "items": WHOLE}]},
                        "z": {"type": "array", "items": {"type": "array", "items": {}}},
                    },
                    "additionalProperties": False,
                }
            }
        },
    },
    "responses": {
        "200": {
            "description": "The samples, of the first of these types that Accept names.",
            "headers": {"Seed": {"schema": WHOLE}},
            "content": {
                JSON: {"schema": {"type": "object"}},
                **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in (NPY, PNG)},
            },
        }
    },
}


@dataclass(frozen=True, eq=False)
class SampleRoutes:
    """The routes under /v1/models that sample."""

    deployment: Deployment

    def router(self) -> APIRouter:
        """Its routes."""
        router = APIRouter(prefix="/v1", tags=["samples"])
        for path in ("/models/{name}", "/models/{name}/versions/{version}"):
            router.add_api_route(
                f"{path}/sample",
                self.sample,
                methods=["POST"],
                summary="Samples of a generative model: images, or other rows.",
                openapi_extra=ABOUT,
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
