"""The OpenAPI document: what FastAPI can't know about bodies, problems and API keys.

Routes document bodies that they read or encode themselves with `body_of` and `answer_of`, and the
errors of their own with `problems`. Errors that all routes share are added here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter

from app.serving.http.descriptions import NAMES
from app.serving.http.problems import CLIENT_GONE, MEDIA_TYPE, RETRY_AFTER_S, Problem

DESCRIPTION = """Estimates for every component of a hydraulic machine how healthy it is, how
certain that is, and why.

Send the API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Errors are RFC 9457 problem
documents. A path that does not exist is answered with 404, another method of a path with 405 and an
`Allow` header. Each response has an `X-Trace-Id` header, which also is in the logs.

Responses to a key say what is left of its limits in `RateLimit` and `RateLimit-Policy`
(draft-ietf-httpapi-ratelimit-headers); beyond them the answer is 429.

With `X-Request-Timeout-Ms` (1 to 60000) a request is answered with 504 when that time has passed,
and its work is cancelled."""

TAGS = (
    {"name": "health", "description": "Probes and metrics; they need no API key"},
    {"name": "equipment", "description": "Machines: their topology and what is known about them"},
    {"name": "readings", "description": "Sensor readings of the machines"},
    {"name": "labels", "description": "What is known of components, for training"},
    {"name": "diagnoses", "description": "Health, condition and evidence of each component"},
    {"name": "models", "description": "Released versions, their traffic and comparisons of them"},
    {"name": "keys", "description": "API keys and their scopes"},
    {"name": "trainings", "description": "Trainings on the cluster; they need an admin key"},
)
SERVERS = ({"url": "/", "description": "the server that returned this document"},)

_REFERENCE = "#/components/schemas/"
_DESCRIPTIONS: Mapping[int, str] = {
    401: "The request has no API key, or an unknown one",
    403: "The API key lacks the scope of this route",
    404: "What the request names does not exist",
    408: "The body did not arrive in time",
    409: "The present state does not allow it",
    413: "The request is larger than the service accepts",
    422: "The request can't be used; the problem names the field",
    CLIENT_GONE: "The client disconnected before the answer; in logs and metrics only",
    429: "A limit of the API key is used up; see RateLimit and Retry-After",
    500: "The service failed; report it with the trace id",
    501: "This installation does not support it",
    503: "The service can't answer now; repeat the request after the time in Retry-After",
    504: "The request takes longer than the service, or `X-Request-Timeout-Ms`, allows",
}
_RETRY_AFTER: Mapping[str, Any] = {
    "Retry-After": {
        "description": "seconds to wait before the next try",
        "schema": {"type": "integer", "examples": [RETRY_AFTER_S]},
    }
}
_HEADERS: Mapping[int, Mapping[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string", "examples": ["Bearer"]}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_OF_ALL = (422, 500, 504)
_WITH_KEY = (401, 403, 429, 503)
_WITH_BODY = (408, 413, CLIENT_GONE)


class _Reference(dict[str, Any]):
    """A reference to the schema of a model, which the document gets too."""

    def __init__(self, model: Any) -> None:
        super().__init__({"$ref": _REFERENCE + model.__name__})
        self.model = model


def schema_of(*models: Any) -> dict[str, Any]:
    """Return the schema of a model, or of any of several; models are pydantic or dataclasses."""
    references = [_Reference(model) for model in models]
    return references[0] if len(references) == 1 else {"anyOf": references}


def body_of(
    model: type[BaseModel], *media_types: str, examples: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Describe the request body of a route that reads it itself, for `openapi_extra`.

    Args:
        model: of the body.
        media_types: JSON when none is given.
        examples: values by a short name that says what each shows.
    """
    content: dict[str, Any] = {"schema": schema_of(model)}
    if examples:
        content["examples"] = {
            name: {"summary": name, "value": value} for name, value in examples.items()
        }
    # `read_json` takes no body for an empty object
    required = any(field.is_required() for field in model.model_fields.values())
    return {
        "requestBody": {
            "required": required,
            "content": dict.fromkeys(media_types or ("application/json",), content),
        }
    }


def answer_of(
    *models: Any,
    media_type: str = "application/json",
    status: int = 200,
    description: str = "Success",
) -> dict[int | str, dict[str, Any]]:
    """Describe a successful response that a route encodes itself, for `responses`.

    Args:
        models: of the body; any of them when there are several.
        media_type: of the body.
        status: of the response.
        description: what the status means.
    """
    content = {media_type: {"schema": schema_of(*models)}}
    return {status: {"description": description, "content": content}}


def problems(*statuses: int, **descriptions: str) -> dict[int | str, dict[str, Any]]:
    """Describe the problem documents of a route, for `responses`.

    Without mention, all routes have 422 and 500, routes that need a key 401, 403 and 503, those
    with a body 413 and 499.

    Args:
        statuses: that the route answers beside these.
        descriptions: when a status occurs, by `s` and the status: `s404="no such key"`.
    """
    described = {int(name[1:]): text for name, text in descriptions.items()}
    return {status: _problem(status, described) for status in (*statuses, *described)}


def _problem(status: int, described: Mapping[int, str] | None = None) -> dict[str, Any]:
    text = (described or {}).get(status) or _DESCRIPTIONS.get(status) or HTTPStatus(status).phrase
    found: dict[str, Any] = {
        "description": text,
        "content": {MEDIA_TYPE: {"schema": schema_of(Problem)}},
    }
    return found | ({"headers": _HEADERS[status]} if status in _HEADERS else {})


def document(api: FastAPI) -> None:
    """Make the application return the complete document."""

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = _complete(api)
        return api.openapi_schema

    setattr(api, "openapi", openapi)  # noqa: B010 - FastAPI documents replacing this method


def _complete(api: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=api.title,
        version=api.version,
        description=DESCRIPTION,
        routes=api.routes,
        tags=[dict(tag) for tag in TAGS],
        servers=[dict(server) for server in SERVERS],
        separate_input_output_schemas=False,
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    routes = [route for route in api.routes if isinstance(route, APIRoute)]
    models = {
        reference.model.__name__: reference.model
        for route in routes
        for reference in _references((route.responses, route.openapi_extra))
    }
    models[Problem.__name__] = Problem
    _, made = TypeAdapter.json_schemas(
        [(name, "validation", TypeAdapter(model)) for name, model in models.items()],
        ref_template=_REFERENCE + "{model}",
    )
    schemas.update(made["$defs"])
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)  # FastAPI's own form of 422
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            if name in NAMES:
                field.setdefault("description", NAMES[name])
            if field.get("default") and isinstance(field["default"], dict | list):
                del field["default"]  # generated clients give it a wrong type
    requests = []
    for operations in found["paths"].values():
        for operation in operations.values():
            _complete_operation(operation)
            requests.append(operation.get("requestBody"))
    for name in schemas.keys() - _named(requests, schemas):
        # fields may be added to answers: clients that refuse unknown ones would break
        if schemas[name].get("additionalProperties") is False:
            del schemas[name]["additionalProperties"]
        for field in schemas[name].get("properties", {}).values():
            field.pop("default", None)  # says nothing of an answer
    return found


def _named(part: object, schemas: Mapping[str, Any]) -> set[str]:
    """Return the names of the schemas that a part of the document refers to, also indirectly."""
    found: set[str] = set()
    new = set(re.findall(f'"{_REFERENCE}([^"]+)"', json.dumps(part)))
    while new:
        found |= new
        new = {
            name
            for each in new
            for name in re.findall(f'"{_REFERENCE}([^"]+)"', json.dumps(schemas[each]))
        } - found
    return found


def _references(part: object) -> Iterator[_Reference]:
    if isinstance(part, _Reference):
        yield part
    elif isinstance(part, Mapping):
        for each in part.values():
            yield from _references(each)
    elif isinstance(part, list | tuple):
        for each in part:
            yield from _references(each)


def _complete_operation(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]
    shared = {*_OF_ALL}
    if operation.get("security"):
        shared.update(_WITH_KEY)
    if "requestBody" in operation:
        shared.update(_WITH_BODY)
    for each in operation.get("parameters", ()):
        if each["name"] in NAMES:
            each.setdefault("description", NAMES[each["name"]])
    for status in sorted(shared):
        responses.setdefault(str(status), _problem(status))
    operation["responses"] = dict(sorted(responses.items()))
