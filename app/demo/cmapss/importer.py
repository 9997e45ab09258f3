"""Imports C-MAPSS engines into a store: each is a machine of one design, with one cycle an hour and the time at which it failed.

Which component failed is the caller's to say, and what the machine is made of is the topology's. Written again, nothing changes, so an
import that was interrupted is completed by running it again.
Invariant: cycle c of an engine is the hour that begins c - 1 hours after the start, and its label ends when the engine failed, also where
that lies after its last cycle.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.core.errors import ReadingError, TopologyError
from app.demo.cmapss.files import SENSOR_IDS, Engine
from app.schemas.equipment import Equipment
from app.schemas.topology import parse_equipment, read_equipment
from app.store.labels import ConditionLabel
from app.store.readings import CHUNK, Readings
from app.store.store import Store

TOPOLOGY_FILE = Path(__file__).resolve().parent / "turbofan.yaml"

HOUR_US = 3_600_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EngineProgress(NamedTuple):
    """What an import has done so far: engines written, readings written, and how many of these were new."""

    engines: int
    readings: int
    accepted: int


def engine_topology(path: Path = TOPOLOGY_FILE) -> Equipment:
    """Read the topology that the engines have in common.

    Raises:
        TopologyError: it has errors, or lacks a sensor for a column of the files.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise TopologyError(
            str(path), (("", f"expected a topology file, found none to read ({error.strerror})"),)
        ) from error
    equipment = read_equipment(text, path.name)
    findings = tuple(
        (
            "components",
            f"expected a sensor '{sensor_id}' as a column of the files, found none: add it to its component",
        )
        for sensor_id in SENSOR_IDS
        if sensor_id not in equipment.sensor_ids
    )
    if findings:
        raise TopologyError(path.name, findings)
    return equipment


async def import_engines(
    store: Store,
    topology: Equipment,
    engines: Sequence[Engine],
    component_id: str,
    prefix: str,
    start: datetime,
    report: Callable[[EngineProgress], None],
    remaining: Sequence[float] | None = None,
) -> EngineProgress:
    """Register the engines and write their readings and labels.

    Args:
        store: where to write.
        topology: of all engines.
        engines: their histories.
        component_id: the component that failed.
        prefix: engine 7 is registered as `<prefix>-7`.
        start: when every engine's first cycle begins; aware, on a whole hour.
        report: told after every few engines.
        remaining: cycles that each engine ran after its last line; None where the last cycle is the failure.

    Returns:
        The whole import.

    Raises:
        TopologyError: an id is not one.
        ReadingError: the topology has no such component, or the start is not on a whole hour.
        StoreError: the store refused or can't be reached. What was reported is written.
    """
    there = [component.component_id for component in topology.components]
    if component_id not in there:
        raise ReadingError(
            f"expected the component that failed, one of {', '.join(there)}, found '{component_id}': correct --component",
            "component",
        )
    start_us = _start_us(start)
    left = [0.0] * len(engines) if remaining is None else list(remaining)
    machines = [
        parse_equipment(
            {
                **topology.model_dump(mode="json"),
                "equipment_id": f"{prefix}-{engine.unit}",
                "name": f"engine {engine.unit}",
            },
            f"equipment id '{prefix}-{engine.unit}'",
        )
        for engine in engines
    ]
    await store.migrate()
    done = EngineProgress(0, 0, 0)
    for chosen in _blocks(engines):
        blocks = []
        for place in chosen:
            engine, machine = engines[place], machines[place]
            await store.put_equipment(machine)
            end_us = start_us + round((len(engine.values_CR) + left[place]) * HOUR_US)
            label = ConditionLabel(component_id, start_us, end_us, run_to_failure=True)
            await store.put_labels(machine.equipment_id, [label])
            blocks.append(_readings(machine.equipment_id, engine, start_us))
        result = await store.ingest_many(blocks)
        done = EngineProgress(
            engines=done.engines + len(chosen),
            readings=done.readings + sum(len(block.sensor_ids) for block in blocks),
            accepted=done.accepted + result.accepted,
        )
        report(done)
    return done


def _readings(equipment_id: str, engine: Engine, start_us: int) -> Readings:
    cycles = len(engine.values_CR)
    times_us_C = start_us + np.arange(cycles, dtype=np.int64) * HOUR_US
    return Readings(
        equipment_id,
        SENSOR_IDS * cycles,
        np.repeat(times_us_C, len(SENSOR_IDS)),
        engine.values_CR.reshape(-1),
    )


def _blocks(engines: Sequence[Engine]) -> Iterator[list[int]]:
    """Yield the places of as many engines as one transaction takes."""
    block: list[int] = []
    size = 0
    for place, engine in enumerate(engines):
        if block and size + engine.values_CR.size > CHUNK:
            yield block
            block, size = [], 0
        block.append(place)
        size += engine.values_CR.size
    if block:
        yield block


def _start_us(start: datetime) -> int:
    if start.tzinfo is None:
        raise ReadingError(
            f"expected a start with a time zone, found {start.isoformat()}: add Z for UTC", "start"
        )
    since_epoch = start - _EPOCH
    if since_epoch % timedelta(hours=1):
        raise ReadingError(
            f"expected a start on a whole hour, since a cycle is one hour, found {start.isoformat()}: round it",
            "start",
        )
    return since_epoch // timedelta(microseconds=1)
