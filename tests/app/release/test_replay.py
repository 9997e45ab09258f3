"""Replay: the same scores from the same inputs, and the names of changed inputs."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from app.checkpoint.manifest import sha256_of
from app.core.errors import CheckpointError, InputError, UnknownDiagnosis
from app.demo.rig.equipment import rig_equipment
from app.release.replay import InlineInput, Replayed, read_given, replay
from app.schemas.readings import InlineReadings
from app.serving.ingress.deployment import Service
from app.store.store import Store
from tests.rig import inline_readings, rig_cycle

START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(minutes=1)


def topology(**changes: object) -> dict[str, Any]:
    return rig_equipment().model_dump(mode="json") | changes


def readings(row: int, *left_out: str) -> list[dict[str, object]]:
    return [
        {
            "equipment_id": "hydraulic-rig",
            "sensor_id": sensor_id,
            "time": (START + timedelta(seconds=second)).isoformat(),
            "value": value,
        }
        for sensor_id, series in rig_cycle(row)[0].items()
        if sensor_id not in left_out
        for second, value in enumerate(series)
    ]


async def diagnosed(
    client: httpx.AsyncClient, service: Service, **request: object
) -> dict[str, Any]:
    """Return a diagnosis that was stored."""
    answer = await client.post("/v1/diagnoses", json={"equipment_id": "hydraulic-rig"} | request)
    assert answer.status_code == 200, answer.text
    await client.get("/v1/equipment/hydraulic-rig/diagnoses")  # flushes the write-behind queue
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
async def rig(client: httpx.AsyncClient, store: Store) -> None:
    assert (await client.put("/v1/equipment/hydraulic-rig", json=topology())).status_code in {
        200,
        201,
    }


@pytest.fixture
def again(store: Store, checkpoints: dict[str, Path]) -> Any:
    """Replay with the versions of the service."""

    async def run(
        diagnosis_id: str, given: InlineInput | None = None, directory: Path | None = None
    ) -> Replayed:
        return await replay(
            diagnosis_id, store, lambda version: directory or checkpoints[f"model-{version}"], given
        )

    return run


@pytest.mark.usefixtures("rig")
async def test_stored_window_has_the_same_scores(
    client: httpx.AsyncClient, service: Service, again: Any
):
    await client.post("/v1/readings", json=readings(700, "PS3"))
    made = await diagnosed(client, service, at=END.isoformat(), explain=True)
    assert made["input"]["digest"]
    assert made["weights_sha256"]
    done = await again(made["diagnosis_id"])
    assert done.same, done.lines
    assert done.lines[0].startswith(f"diagnosis {made['diagnosis_id']} of 'hydraulic-rig'")
    assert "the same within 1e-05" in done.lines[-1]
    assert len(done.lines) == 2


@pytest.mark.usefixtures("rig")
async def test_late_readings_are_named(client: httpx.AsyncClient, service: Service, again: Any):
    await client.post("/v1/readings", json=readings(700, "PS3", "FS1"))
    made = await diagnosed(client, service, at=END.isoformat())
    await client.post("/v1/readings", json=readings(700))
    done = await again(made["diagnosis_id"])
    assert not done.same
    assert done.lines[1].startswith(f"readings: digest {made['input']['digest'][:12]} then")
    assert "components differ" in done.lines[2]
    assert ": health " in done.lines[3]


@pytest.mark.usefixtures("rig")
async def test_removed_readings_are_named(
    client: httpx.AsyncClient, service: Service, store: Store, again: Any
):
    await client.post("/v1/readings", json=readings(700))
    made = await diagnosed(client, service, at=END.isoformat())
    await store.drop_before(datetime(2026, 2, 1, tzinfo=UTC))
    done = await again(made["diagnosis_id"])
    assert not done.same
    assert "readings: the store has none of the window any more" in done.lines


@pytest.mark.usefixtures("rig")
async def test_replaced_topology_is_read_from_the_store(
    client: httpx.AsyncClient,
    service: Service,
    store: Store,
    again: Any,
):
    await client.post("/v1/readings", json=readings(700))
    made = await diagnosed(client, service, at=END.isoformat())
    changed = topology(name="Renamed", steps=20)
    assert (await client.put("/v1/equipment/hydraulic-rig", json=changed)).status_code == 200
    done = await again(made["diagnosis_id"])
    assert done.same, done.lines
    assert "repeated with that of then" in done.lines[1]
    # with another grid, the old bins are no longer read
    assert (
        await client.put("/v1/equipment/hydraulic-rig", json=topology(grid_s=5.0))
    ).status_code == 200
    done = await again(made["diagnosis_id"])
    assert not done.same
    assert any("in bins of 5000000 us now" in line for line in done.lines), done.lines
    # drops topologies replaced over 31 days before the month of this time
    await store.drop_before(datetime.now(UTC) + timedelta(days=70))
    assert await store.topology_of_revision("hydraulic-rig", made["topology_revision"]) is None


@pytest.mark.usefixtures("rig")
async def test_inline_readings_come_from_a_file(
    client: httpx.AsyncClient,
    service: Service,
    again: Any,
    tmp_path: Path,
):
    request = {"readings": inline_readings(rig_cycle(700)[0], START.isoformat())}
    made = await diagnosed(client, service, **request)
    done = await again(made["diagnosis_id"])
    assert not done.same
    assert any("--readings FILE" in line for line in done.lines)
    path = tmp_path / "request.json"
    for content in (request["readings"], {"equipment_id": "hydraulic-rig"} | request):
        path.write_text(json.dumps(content))
        assert (await again(made["diagnosis_id"], read_given(path))).same
    other = InlineReadings.model_validate(inline_readings(rig_cycle(0)[0], START.isoformat()))
    done = await again(made["diagnosis_id"], InlineInput(other, None))
    assert not done.same
    assert done.lines[1].startswith("readings: digest")
    later = InlineReadings.model_validate(inline_readings(rig_cycle(700)[0], END.isoformat()))
    assert (
        "expected a start of 2026-01-01T00:00:00"
        in (await again(made["diagnosis_id"], InlineInput(later, None))).lines[1]
    )


async def test_inline_topology_comes_from_the_file(
    client: httpx.AsyncClient,
    service: Service,
    again: Any,
    tmp_path: Path,
):
    request = {
        "equipment_id": "unknown",
        "equipment": topology(equipment_id="unknown"),
        "readings": inline_readings(rig_cycle(700)[0], START.isoformat()),
    }
    await client.put("/v1/equipment/hydraulic-rig", json=topology())
    made = await diagnosed(client, service, **request)
    assert any("is not stored" in line for line in (await again(made["diagnosis_id"])).lines)
    (tmp_path / "request.json").write_text(json.dumps(request))
    assert (await again(made["diagnosis_id"], read_given(tmp_path / "request.json"))).same


@pytest.mark.usefixtures("rig")
async def test_other_or_missing_weights_are_named(
    client: httpx.AsyncClient,
    service: Service,
    store: Store,
    again: Any,
    checkpoints: dict[str, Path],
    tmp_path: Path,
):
    await client.post("/v1/readings", json=readings(700))
    made = await diagnosed(client, service, at=END.isoformat())
    other = Path(shutil.copytree(checkpoints["model-1"], tmp_path / "1"))
    weights = load_file(other / "weights.safetensors")
    save_file(
        {name: (value * np.float32(1.05)).astype(value.dtype) for name, value in weights.items()},
        other / "weights.safetensors",
    )
    manifest = json.loads((other / "checkpoint.json").read_text())
    manifest["sha256"]["weights.safetensors"] = sha256_of(other / "weights.safetensors")
    (other / "checkpoint.json").write_text(json.dumps(manifest))
    done = await again(made["diagnosis_id"], directory=other)
    assert not done.same
    assert done.lines[1].startswith(f"weights: {made['weights_sha256'][:12]} then, version 1 has")

    def nowhere(version: str) -> Path:
        raise CheckpointError(f"expected version {version}, found it nowhere on this machine")

    done = await replay(made["diagnosis_id"], store, nowhere)
    assert (done.same, done.lines[-1]) == (False, "it can't be repeated")
    assert any(line.startswith("weights: expected version 1") for line in done.lines)


async def test_unknown_diagnosis_and_unreadable_file_are_errors(
    store: Store, again: Any, tmp_path: Path
):
    with pytest.raises(UnknownDiagnosis, match="found 'nobody'"):
        await again("nobody")
    for content in ("{", '{"equipment_id": "x"}', "[]"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match="expected"):
            read_given(tmp_path / "bad.json")
