"""Routes of the Open Inference Protocol (v2), which clients of KServe and Triton speak."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jdl.serve.answers import final_outputs
from jdl.serve.deployment import Deployment
from jdl.serve.limits import RequestError
from jdl.serve.models import Columns, ServedModel
from jdl.serve.tensors import described, read_inference, write_inference

JSON_LENGTH = "inference-header-content-length"
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "items": {"type": "object"}},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                    "required": ["inputs"],
                }
            }
        },
    }
}


@dataclass(frozen=True, eq=False)
class InferenceRoutes:
    """The routes under /v2: health, metadata and inference, with tensors as JSON or as bytes."""

    deployment: Deployment

    def router(self) -> APIRouter:
        """Its routes."""
        router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
        add = router.add_api_route
        add("", self.server, summary="The server and its extensions.")
        add("/health/live", self.live, summary="Whether the server lives.")
        add("/health/ready", self.ready, summary="Whether every model is ready.")
        for path in ("/models/{name}", "/models/{name}/versions/{version}"):
            add(path, self.about, summary="The inputs and outputs of a model.")
            add(f"{path}/ready", self.model_ready, summary="Whether a model is ready.")
            add(
                f"{path}/infer",
                self.infer,
                methods=["POST"],
                summary="The outputs for tensors.",
                openapi_extra=BODY,
            )
        return router

    async def server(self) -> Response:
        """The server's name and its extensions."""
        return JSONResponse({"name": "jdl", "version": "1", "extensions": ["binary_tensor_data"]})

    async def live(self) -> Response:
        """200 as long as the server answers."""
        return JSONResponse({"live": True})

    async def ready(self) -> Response:
        """200 when every model is warm."""
        self.deployment.check_ready()
        return JSONResponse({"ready": True})

    async def model_ready(self, name: str, version: str | None = None) -> Response:
        """200 when a model is warm."""
        self.deployment.models.find(name, version)
        return await self.ready()

    async def about(self, name: str, version: str | None = None) -> Response:
        """The metadata of a model."""
        models = self.deployment.models
        model = models.find(name, version)
        program = model.programs.get("predict")
        if program is None:
            raise RequestError(422, f"{name} does not predict.")
        return JSONResponse(
            {
                "name": model.name,
                "versions": [other.version for other in models.named(name)],
                "platform": "jax_stablehlo",
                "inputs": described(program.inputs),
                "outputs": described(program.outputs),
            }
        )

    async def infer(self, request: Request, name: str, version: str | None = None) -> Response:
        """The outputs of a model for the tensors of a body."""
        model = self.deployment.models.find(name, version)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RequestError(415, "Bodies are not decompressed: send it as it is.")
        content, headers = await self.deployment.compute(
            request,
            model,
            "predict",
            partial(read_inference, request.headers.get(JSON_LENGTH)),
            partial(_write, model),
        )
        return Response(content, headers=headers)


def _write(
    model: ServedModel, document: dict[str, Any], outputs: Columns
) -> tuple[bytes, dict[str, str]]:
    return write_inference(document, _head(model, document), final_outputs(model, outputs))


def _head(model: ServedModel, document: dict[str, Any]) -> dict[str, Any]:
    """What an answer begins with: which model answers, and the request's own id."""
    given = document.get("id")
    own = {"id": given} if isinstance(given, str) else {}
    return {"model_name": model.name, "model_version": model.version, **own}
