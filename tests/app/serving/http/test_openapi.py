"""The OpenAPI document."""

import json
import re
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest

from app.serving.http.app import build_api

Operations = dict[str, dict[str, Any]]


@pytest.fixture
async def document() -> dict[str, Any]:
    """The document of an interface that is not started."""
    transport = httpx.ASGITransport(build_api(MagicMock()))
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
            if status >= "4" and (name, status) != ("get_readiness", "503")
        }
        expected = {"422", "500"} | ({"401", "403", "503"} if "security" in operation else set())
        if "requestBody" in operation:
            expected |= {"413"}
        assert expected <= set(failures), name
        for status, response in failures.items():
            assert list(response["content"]) == ["application/problem+json"], (name, status)
            assert response["description"], (name, status)
    assert "Retry-After" in operations["get_history"]["responses"]["503"]["headers"]


def test_every_success_has_a_schema(operations: Operations):
    for name, operation in operations.items():
        successes = [status for status in operation["responses"] if status < "4"]
        assert successes, name
        for status in successes:
            assert ("content" in operation["responses"][status]) == (status != "204"), name
            for kind, content in operation["responses"][status].get("content", {}).items():
                assert content["schema"], (name, status, kind)
    assert {"200", "201"} <= set(operations["put_equipment"]["responses"])
    (lines,) = operations["post_batch"]["responses"]["200"]["content"].values()
    named = {each["$ref"].rsplit("/", 1)[-1] for each in lines["schema"]["anyOf"]}
    assert named == {"DiagnosisLine", "ErrorLine", "SummaryLine"}


def test_every_property_and_parameter_is_described(
    document: dict[str, Any], operations: Operations
):
    schemas = document["components"]["schemas"].items()
    bare = [f"schema {name}" for name, schema in schemas if not schema.get("description")]
    bare += [
        f"{name}.{field}"
        for name, schema in schemas
        for field, described in schema.get("properties", {}).items()
        if not described.get("description")
    ]
    bare += [
        f"{name}({parameter['name']})"
        for name, operation in operations.items()
        for parameter in operation.get("parameters", ())
        if not parameter.get("description")
    ]
    assert bare == []


def test_readings_are_the_union_of_their_forms_with_examples(
    document: dict[str, Any], operations: Operations
):
    content = operations["post_readings"]["requestBody"]["content"]
    assert {"application/json", "application/x-ndjson", "text/csv"} <= set(content)
    name = content["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
    assert len(document["components"]["schemas"][name]["anyOf"]) == 3
    for kind, described in content.items():
        assert described["examples"], kind


def test_choices_are_enums(document: dict[str, Any]):
    schemas = document["components"]["schemas"]
    for name, field in (("Component", "type"), ("Sensor", "quantity"), ("Connection", "medium")):
        assert len(schemas[name]["properties"][field]["enum"]) > 5
    assert schemas["ComponentDiagnosis"]["properties"]["state"]["enum"]


def test_requests_are_strict_and_answers_may_grow(document: dict[str, Any]):
    schemas = document["components"]["schemas"]
    assert schemas["DiagnosisRequest"]["additionalProperties"] is False
    assert "additionalProperties" not in schemas["Diagnosis"]


async def test_page_loads_nothing_from_other_servers():
    transport = httpx.ASGITransport(build_api(MagicMock()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        page = (await client.get("/docs")).raise_for_status().text
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(loaded) == 3
        for path in loaded:
            assert path.startswith("/"), path
            assert len((await client.get(path)).raise_for_status().content) > 100
        assert (await client.get("/redoc")).status_code == 404
