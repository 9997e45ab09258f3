"""Describes bodies in the OpenAPI document that routes parse and encode themselves."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, TypeAdapter

from app.experiments.report import Experiments
from app.schemas.diagnosis import BatchRequest, Diagnosis, DiagnosisRequest
from app.schemas.equipment import Equipment
from app.schemas.readings import IngestAnswer, Reading
from app.schemas.releases import DeployOrder, ReleaseAnswer, RollbackOrder, TrafficOrder
from app.serving.http.problems import Problem

_BODIES: tuple[type[BaseModel] | type[Diagnosis], ...] = (
    Equipment,
    Reading,
    DiagnosisRequest,
    BatchRequest,
    Diagnosis,
    IngestAnswer,
    Experiments,
    TrafficOrder,
    DeployOrder,
    RollbackOrder,
    ReleaseAnswer,
    Problem,
)


def body_of(schema: str, *media_types: str) -> dict[str, Any]:
    """Describe a route's request body.

    Args:
        schema: name of the body's schema.
        media_types: JSON when none is given.
    """
    reference = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return {
        "requestBody": {
            "required": True,
            "content": dict.fromkeys(media_types or ("application/json",), reference),
        }
    }


def answer_of(schema: str, media_type: str = "application/json") -> dict[int | str, dict[str, Any]]:
    """Describe a route's responses: a schema on success, problem documents otherwise."""
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        200: {
            "description": "Success",
            "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
        },
        "4XX": {"description": "What was sent can't be used", "content": problem},
        "5XX": {"description": "The service can't answer now", "content": problem},
    }


def document_bodies(api: FastAPI) -> None:
    """Add the schemas of `_BODIES` to the OpenAPI document."""

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            document = get_openapi(
                title=api.title, version=api.version, description=api.description, routes=api.routes
            )
            _, schemas = TypeAdapter.json_schemas(
                [(body.__name__, "validation", TypeAdapter(body)) for body in _BODIES],
                ref_template="#/components/schemas/{model}",
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
            api.openapi_schema = document
        return api.openapi_schema

    setattr(api, "openapi", openapi)  # noqa: B010 - FastAPI documents replacing this method
