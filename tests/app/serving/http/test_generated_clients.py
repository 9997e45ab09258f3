"""Clients generated from the OpenAPI document type-check and work."""

import asyncio
import importlib
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest

from app.demo.rig.equipment import rig_equipment
from app.serving.http.app import build_api
from app.serving.ingress.deployment import Service
from app.store.keys import SCOPES
from app.store.store import Store
from tests.rig import inline_readings, rig_cycle

BIN = Path(sys.executable).parent
START = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = {
    *("application/x-ndjson", "text/csv", "application/yaml"),
    *("application/x-tar", "application/gzip", "application/zstd"),
}
"""Media types that openapi-python-client leaves to the caller."""


async def run(*command: object) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    return output


@pytest.fixture
async def document(tmp_path: Path) -> Path:
    """File with the document of an interface that is not started."""
    transport = httpx.ASGITransport(build_api(MagicMock()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = (await client.get("/openapi.json")).raise_for_status()
    path = tmp_path / "openapi.json"
    path.write_bytes(answer.content)
    return path


@pytest.fixture(scope="module")
def types_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of what mypy knows of libraries, for all tests: it takes most of the time."""
    return tmp_path_factory.mktemp("mypy")


async def check_types(made: Path, types_cache: Path) -> None:
    """Type-check generated files, by settings of their own."""
    settings = types_cache / "mypy.ini"
    settings.write_text("[mypy]\nstrict = true\nwarn_return_any = false\n", encoding="utf-8")
    await run(BIN / "mypy", "--config-file", settings, "--cache-dir", types_cache, made)


async def generate_client(document: Path) -> Path:
    made = document.parent / "made_client"
    command = (BIN / "openapi-python-client", "generate", "--path", document)
    output = await run(*command, "--meta", "none", "--output-path", made)
    refused = re.findall(r"Unsupported content.type ([\w/-]+)", output)
    assert set(refused) == TEXTS
    assert "will not be generated" not in output, output
    return made


class Generated:
    """A generated client that calls the interface in this process."""

    def __init__(self, service: Service, key: str) -> None:
        self.models = importlib.import_module("made_client.models")
        self.client = importlib.import_module("made_client").AuthenticatedClient(
            base_url="http://test",
            token=key,
            httpx_args={"transport": httpx.ASGITransport(build_api(service))},
        )

    async def answer(self, name: str, **arguments: Any) -> Any:
        """Call an operation by its tag and id."""
        module = importlib.import_module(f"made_client.api.{name}")
        return await module.asyncio_detailed(client=self.client, **arguments)

    async def call(self, name: str, **arguments: Any) -> Any:
        """Call an operation by its tag and id, and return the parsed answer."""
        return (await self.answer(name, **arguments)).parsed

    async def post(self, path: str, kind: str, body: str) -> Any:
        """Post text, with the client's address and key."""
        send = self.client.get_async_httpx_client().post
        return (await send(path, content=body, headers={"content-type": kind})).json()


def readings(row: int) -> list[dict[str, Any]]:
    return [
        {
            "equipment_id": "twin",
            "sensor_id": sensor_id,
            "time": (START + timedelta(minutes=row, seconds=second)).isoformat(),
            "value": value,
        }
        for sensor_id, series in rig_cycle(row)[0].items()
        for second, value in enumerate(series)
    ]


async def test_openapi_python_client_type_checks_and_works(
    document: Path,
    types_cache: Path,
    service: Service,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
):
    await check_types(await generate_client(document), types_cache)
    monkeypatch.syspath_prepend(str(document.parent))
    made = Generated(service, (await store.create_key("test", SCOPES)).secret)
    models = made.models

    topology = rig_equipment().model_dump(mode="json") | {"equipment_id": "twin"}
    answer = await made.call(
        "equipment.put_equipment",
        equipment_id="twin",
        body=models.Equipment.from_dict(topology),
    )
    assert answer.created
    listed = await made.call("equipment.list_equipment")
    assert "twin" in [each.equipment_id for each in listed.equipment]

    reading = models.Reading.from_dict
    one, *others = readings(0)
    some = [reading(each) for each in others]
    assert (await made.call("readings.post_readings", body=reading(one))).accepted == 1
    assert (await made.call("readings.post_readings", body=some)).accepted == len(some)
    whole = models.ReadingList(readings=[reading(each) for each in readings(1)])
    assert (await made.call("readings.post_readings", body=whole)).rejected == []
    lines = "".join(json.dumps(each) + "\n" for each in readings(2))
    table = (one, *(each.values() for each in readings(3)))
    rows = "".join(",".join(map(str, row)) + "\n" for row in table)
    for kind, text in (("application/x-ndjson", lines), ("text/csv", rows)):
        assert (await made.post("/v1/readings", kind, text))["accepted"] == len(whole.readings)

    for minute in (1, 2, 3):
        at = START + timedelta(minutes=minute)
        request = models.DiagnosisRequest(equipment_id="twin", at=at)
        diagnosis = await made.call("diagnoses.post_diagnosis", body=request)
        assert (diagnosis.equipment_id, diagnosis.window.end) == ("twin", at)
    values = inline_readings(rig_cycle(0)[0], START.isoformat())
    inline = {"equipment_id": "twin", "readings": values}
    items = [models.DiagnosisRequest.from_dict(inline), models.DiagnosisRequest("nobody")]
    answer = await made.answer("diagnoses.post_batch", body=models.BatchRequest(items=items))
    *outcomes, summary = map(json.loads, answer.content.splitlines())
    assert models.SummaryLine.from_dict(summary).summary.failed == 1
    lines_by_index = {line["index"]: line for line in outcomes}
    assert models.DiagnosisLine.from_dict(lines_by_index[0]).diagnosis.equipment_id == "twin"
    assert models.ErrorLine.from_dict(lines_by_index[1]).error.status == 404

    ends, cursor = [], None
    for _ in range(2):
        page = await made.call("diagnoses.get_history", equipment_id="twin", limit=2, cursor=cursor)
        ends += [each.window.end for each in page.diagnoses]
        cursor = page.next_cursor
    # the first minute was also diagnosed from the readings of a request
    assert ends == [START + timedelta(minutes=minute) for minute in (3, 2, 1, 1)]
    assert cursor is None

    problem = await made.call("equipment.get_equipment", equipment_id="nobody")
    assert isinstance(problem, models.Problem)
    assert (problem.status, problem.type_.rsplit(":", 1)[-1]) == (404, "unknown-equipment")


async def test_datamodel_codegen_types_check_and_read_an_answer(
    document: Path,
    types_cache: Path,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
):
    made = document.parent / "made_models.py"
    await run(
        *(BIN / "datamodel-codegen", "--input", document, "--input-file-type", "openapi"),
        *("--output", made, "--output-model-type", "pydantic_v2.BaseModel", "--use-annotated"),
        *("--target-python-version", "3.11", "--formatters", "builtin"),
        *("--enum-field-as-literal", "all", "--keep-field-defaults-off-branch-roots"),
    )
    await check_types(made, types_cache)
    monkeypatch.syspath_prepend(str(document.parent))
    models = importlib.import_module("made_models")
    request = {
        "equipment_id": "twin",
        "equipment": rig_equipment().model_dump(mode="json", exclude={"equipment_id"}),
        "readings": inline_readings(rig_cycle(0)[0], START.isoformat()),
    }
    models.DiagnosisRequest.model_validate(request)
    answer = await client.post("/v1/diagnoses", json=request)
    diagnosis = models.Diagnosis.model_validate_json(answer.content)
    assert diagnosis.window.end == START + timedelta(minutes=1)
    assert diagnosis.components[0].condition == answer.json()["components"][0]["condition"]
