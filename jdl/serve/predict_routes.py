"""Routes of predictions: what is served, and rows to answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from jdl.export.table import names_of
from jdl.serve.answers import answer_rows, final_outputs, to_json
from jdl.serve.deployment import Deployment
from jdl.serve.inputs import Take, columns_of, parse_json
from jdl.serve.limits import Limits
from jdl.serve.models import Columns, ServedModel, ServedProgram
from jdl.serve.uploads import (
    ARRAYS,
    FORM,
    IMAGES,
    SOUNDS,
    columns_of_file,
    file_of_form,
    media_type,
)

JSON = "application/json"
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "rows": {"type": "array", "items": {}},
                        "columns": {"type": "object"},
                        "texts": {"type": "array", "items": {"type": "string"}},
                    },
                    "minProperties": 1,
                    "maxProperties": 1,
                }
            },
            **{
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in (ARRAYS[0], *IMAGES, SOUNDS[0])
            },
            "text/plain": {"schema": {"type": "string"}},
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


@dataclass(frozen=True, eq=False)
class PredictRoutes:
    """The routes under /v1/models."""

    deployment: Deployment

    def router(self) -> APIRouter:
        """Its routes."""
        router = APIRouter(prefix="/v1", tags=["predictions"])
        add = router.add_api_route
        add("/models", self.list_models, summary="The models that are served.")
        add("/models/{name}", self.about, summary="A model: its inputs, outputs and versions.")
        add("/models/{name}/versions/{version}", self.about, summary="A version of a model.")
        for path in ("/models/{name}", "/models/{name}/versions/{version}"):
            add(
                f"{path}/predict",
                self.predict,
                methods=["POST"],
                summary="Predictions for rows, an array, an image, a sound or a text.",
                openapi_extra=BODY,
            )
        return router

    async def list_models(self) -> Response:
        """The default version of each model; `data` lists them in OpenAI's form."""
        models = self.deployment.models
        names = dict.fromkeys(model.name for model in models.models)
        cards = [_about(models.named(name), None) for name in names]
        return _json({"models": cards, "object": "list", "data": list(map(_openai_card, names))})

    async def about(self, name: str, version: str | None = None) -> Response:
        """What a model takes and gives."""
        models = self.deployment.models
        return _json(_about(models.named(name), models.find(name, version)))

    async def predict(self, request: Request, name: str, version: str | None = None) -> Response:
        """The predictions of a model for the rows of a body."""
        model = self.deployment.models.find(name, version)
        kind = request.headers.get("content-type", JSON)
        content = await self.deployment.compute(
            request, model, "predict", partial(_read, kind, model), partial(_write, model)
        )
        return Response(content, media_type=JSON)


def _read(
    kind: str, model: ServedModel, body: bytes, program: ServedProgram, limits: Limits, take: Take
) -> tuple[None, Columns]:
    if media_type(kind) == FORM:
        kind, body = file_of_form(kind, body)
    kind = media_type(kind)
    if kind == JSON or kind == "application/x-www-form-urlencoded":  # what curl says of --data
        return None, columns_of(parse_json(body), model, program, limits, take)
    return None, columns_of_file(kind, body, model, program, limits, take)


def _write(model: ServedModel, _: None, outputs: Columns) -> bytes:
    rows = answer_rows(model, final_outputs(model, outputs))
    return to_json({"model": model.name, "version": model.version, "predictions": rows})


def _about(versions: list[ServedModel], model: ServedModel | None) -> dict[str, Any]:
    """What is said of a model: by the manifest, and of its versions."""
    model = model or versions[0]
    manifest = model.manifest
    return {
        **_openai_card(model.name),
        "name": model.name,
        "version": model.version,
        "versions": [other.version for other in versions],
        "description": manifest["description"],
        "programs": {
            name: {"inputs": program.inputs, "outputs": program.outputs}
            for name, program in model.programs.items()
        },
        "labels": manifest["labels"],
        "table": names_of(manifest["table"]) if manifest.get("table") else None,
        "texts": manifest["tokenizer"] is not None,
        "preprocessing": manifest["preprocessing"],
    }


def _openai_card(name: str) -> dict[str, Any]:
    """What OpenAI's API says of a model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "jdl"}


def _json(document: Any) -> Response:
    return Response(to_json(document), media_type=JSON)
