"""A small fleet: rigs with a measured cycle each, two released small networks, and a plan."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from app.demo.rig.equipment import rig_equipment
from app.fleet.plan import Plan, RunRequest, make_plan
from app.schemas.equipment import Equipment
from app.store.store import Store
from tests.network import small_checkpoint
from tests.rig import rig_cycle

START = datetime(2025, 1, 1, tzinfo=UTC)
AT = datetime(2025, 1, 1, 0, 1, 17, tzinfo=UTC)
"""In the second cycle: the last whole one is the first."""
NOW = datetime(2025, 1, 2, tzinfo=UTC)
RIGS = tuple(f"rig-{number}" for number in range(1, 8))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two versions' checkpoints."""
    directory = tmp_path_factory.mktemp("checkpoints")
    return {version: small_checkpoint(directory, version) for version in ("1", "2")}


@pytest.fixture
def config(tmp_path: Path, checkpoints: dict[str, Path]) -> Path:
    """A service's configuration that releases both versions, half of the machines each."""
    path = tmp_path / "serve_config.yaml"
    write_config(path, checkpoints, {"1": 50, "2": 50})
    return path


def write_config(path: Path, checkpoints: dict[str, Path], weights: dict[str, float]) -> None:
    releases = [
        {"version": version, "application": f"model-{version}", "weight": weight}
        for version, weight in weights.items()
    ]
    applications: list[dict[str, Any]] = [
        {
            "name": "diagnostics",
            "deployments": [
                {"name": "Ingress", "user_config": {"traffic": {"releases": releases}}}
            ],
        }
    ]
    applications += [
        {"name": f"model-{name}", "args": {"checkpoint": str(place)}}
        for name, place in checkpoints.items()
    ]
    path.write_text(yaml.safe_dump({"applications": applications}))


@pytest.fixture
def plan(config: Path) -> Plan:
    """All machines, with the versions that traffic chooses."""
    return make_plan(RunRequest(), AT, config, NOW)


@pytest.fixture
async def rigs(store: Store) -> tuple[str, ...]:
    """Ids of registered rigs with readings of one cycle."""
    for number, equipment_id in enumerate(RIGS):
        await add_rig(store, rig_equipment(equipment_id), row=300 * number)
    return RIGS


async def add_rig(store: Store, equipment: Equipment, row: int, start: datetime = START) -> None:
    """Register a rig and give it a cycle of measured readings."""
    await store.put_equipment(equipment)
    values, _ = rig_cycle(row)
    start_us = int(start.timestamp()) * 1_000_000
    times_us = np.tile(start_us + np.arange(60) * 1_000_000, len(values))
    sensor_ids = [sensor_id for sensor_id in values for _ in range(60)]
    await store.ingest(
        equipment.equipment_id, sensor_ids, times_us, np.concatenate(list(values.values()))
    )
