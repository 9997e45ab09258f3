"""The OpenAPI document."""

import json
import re

import httpx


async def test_every_schema_that_is_referred_to_is_in_the_document(client: httpx.AsyncClient):
    document = (await client.get("/openapi.json")).json()
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert named >= {"Diagnosis", "Equipment", "Problem", "IngestAnswer"}
    assert named <= set(document["components"]["schemas"])


async def test_every_path_but_health_and_metrics_names_its_key(client: httpx.AsyncClient):
    document = (await client.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert bool(operation.get("security")) == path.startswith("/v1/"), path
