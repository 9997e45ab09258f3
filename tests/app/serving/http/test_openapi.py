"""The OpenAPI document."""

import json
import re
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from app.serving.http.app import build_api

Operations = dict[str, dict[str, Any]]


@pytest.fixture
async def document() -> dict[str, Any]:
    """The document of an interface that is not started."""
    transport = httpx.ASGITransport(build_api(Mock()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        found: dict[str, Any] = (await client.get("/openapi.json")).raise_for_status().json()
    return found


@pytest.fixture
def operations(document: dict[str, Any]) -> Operations:
    """Every operation by its id."""
    return {
        operation["operationId"]: operation | {"path": path}
        for path, methods in document["paths"].items()
        for operation in methods.values()
    }


def test_every_schema_that_is_referred_to_is_in_the_document(document: dict[str, Any]):
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert named >= {"Diagnosis", "Equipment", "Problem", "IngestAnswer"}
    assert named <= set(document["components"]["schemas"])


def test_operation_ids_are_short_and_tags_are_described(
    document: dict[str, Any], operations: Operations
):
    assert len(operations) == sum(map(len, document["paths"].values()))
    assert {"put_equipment", "post_readings", "post_diagnosis", "get_history"} <= set(operations)
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    for name, operation in operations.items():
        assert set(operation["tags"]) <= described, name
    assert document["servers"]


def test_every_path_but_health_and_metrics_accepts_both_forms_of_a_key(
    document: dict[str, Any], operations: Operations
):
    kinds = {
        name: (scheme["type"], scheme.get("scheme") or scheme["name"])
        for name, scheme in document["components"]["securitySchemes"].items()
    }
    assert sorted(kinds.values()) == [("apiKey", "X-API-Key"), ("http", "bearer")]
    for operation in operations.values():
        named = [name for scheme in operation.get("security", ()) for name in scheme]
        is_open = not operation["path"].startswith("/v1/")
        assert sorted(named) == ([] if is_open else sorted(kinds)), operation["path"]


def test_every_failure_is_a_problem_document(document: dict[str, Any], operations: Operations):
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])
    for name, operation in operations.items():
        failures = {
            status: response
            for status, response in operation["responses"].items()
            if status >= "4" and (name, status) != ("ready", "503")
        }
        expected = {"500"} | ({"401", "403", "503"} if "security" in operation else set())
        if "requestBody" in operation:
            expected |= {"413", "422"}
        assert expected <= set(failures), name
        for status, response in failures.items():
            assert list(response["content"]) == ["application/problem+json"], (name, status)
            assert response["description"], (name, status)
    assert "Retry-After" in operations["get_history"]["responses"]["503"]["headers"]
