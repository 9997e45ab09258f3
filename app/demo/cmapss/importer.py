"""Imports C-MAPSS engines into a store: each is a machine of one design, with one cycle per hour.

The caller names the component that failed; the topology describes the engine. The import can be
repeated; repeating it completes an interrupted one.
Invariant: cycle c of an engine is the hour that begins c - 1 hours after the start; its label ends
at the failure, which may lie after its last cycle.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from app.core.errors import ReadingError
from app.demo.cmapss.files import SENSOR_IDS, Engine
from app.demo.machine import Progress, microseconds_of, read_topology, renamed
from app.schemas.equipment import Equipment
from app.store.labels import ConditionLabel
from app.store.readings import CHUNK, Readings
from app.store.store import Store

TOPOLOGY_FILE = Path(__file__).resolve().parent / "turbofan.yaml"

HOUR_US = 3_600_000_000


def engine_topology(path: Path = TOPOLOGY_FILE) -> Equipment:
    """Read the topology of the engines.

    Raises:
        TopologyError: it has errors, or lacks a sensor for a column of the files.
    """
    return read_topology(path, SENSOR_IDS, "a column of the files")


async def import_engines(
    store: Store,
    topology: Equipment,
    engines: Sequence[Engine],
    component_id: str,
    prefix: str,
    start: datetime,
    report: Callable[[Progress], None],
    remaining: Sequence[float] | None = None,
) -> Progress:
    """Register the engines and write their readings and labels.

    Args:
        store: with or without a schema.
        topology: of all engines.
        engines: their histories.
        component_id: the component that failed.
        prefix: engine 7 is registered as `<prefix>-7`.
        start: of every engine's first cycle; with a time zone, on a whole hour.
        report: called after every few engines.
        remaining: cycles from each engine's last line to its failure; None for 0.

    Returns:
        The progress at the end.

    Raises:
        TopologyError: an id is invalid.
        ReadingError: the topology lacks the component, or the start is not on a whole hour.
        StoreError: the store refused or can't be reached; reported engines are written.
    """
    component_ids = [component.component_id for component in topology.components]
    if component_id not in component_ids:
        raise ReadingError(
            f"expected the component that failed, one of {', '.join(component_ids)}, found "
            f"'{component_id}': correct --component",
            "component",
        )
    hour = timedelta(hours=1)
    begin_us = microseconds_of(start, hour, "a whole hour, since a cycle is one hour")
    left = [0.0] * len(engines) if remaining is None else list(remaining)
    machines = [
        renamed(topology, f"{prefix}-{engine.unit}", name=f"engine {engine.unit}")
        for engine in engines
    ]
    await store.migrate()
    done = Progress(0, len(engines))
    for chosen in _blocks(engines):
        blocks = []
        for place in chosen:
            engine, machine = engines[place], machines[place]
            await store.put_equipment(machine)
            end_us = begin_us + round((len(engine.values_CR) + left[place]) * HOUR_US)
            label = ConditionLabel(component_id, begin_us, end_us, run_to_failure=True)
            await store.put_labels(machine.equipment_id, [label])
            blocks.append(_readings(machine.equipment_id, engine, begin_us))
        done = done.after(len(chosen), await store.ingest_many(blocks))
        report(done)
    return done


def _readings(equipment_id: str, engine: Engine, begin_us: int) -> Readings:
    cycles = len(engine.values_CR)
    times_us = np.repeat(begin_us + np.arange(cycles, dtype=np.int64) * HOUR_US, len(SENSOR_IDS))
    return Readings(equipment_id, SENSOR_IDS * cycles, times_us, engine.values_CR.reshape(-1))


def _blocks(engines: Sequence[Engine]) -> Iterator[list[int]]:
    """Yield the indices of engines whose readings fit one transaction."""
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
