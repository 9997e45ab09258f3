"""Shared by the folders of the machines: topology files, start times and reports of imports."""

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from app.core.command_line import time_argument
from app.core.errors import ReadingError, TopologyError
from app.core.settings import Settings
from app.schemas.equipment import Equipment
from app.schemas.topology import parse_equipment, read_equipment
from app.store.readings import Ingested
from app.store.store import Store, open_store

REPEAT = "run the same command again to continue"
DEFAULT_START = datetime(2025, 1, 1, tzinfo=UTC)
Start = Annotated[
    datetime,
    typer.Option(
        parser=time_argument,
        metavar="TIME",
        help="When the first cycle begins.",
        show_default="2025-01-01T00:00Z",
    ),
]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Progress(NamedTuple):
    """Progress of an import: parts (cycles, engines) written, of how many, and their readings.

    `accepted` counts the readings that were new.
    """

    done: int
    total: int
    readings: int = 0
    accepted: int = 0

    def after(self, parts: int, ingested: Ingested) -> "Progress":
        """Return the progress after more parts were written."""
        return Progress(
            self.done + parts,
            self.total,
            self.readings + ingested.accepted + ingested.duplicates + len(ingested.conflicts),
            self.accepted + ingested.accepted,
        )


def read_topology(path: Path, sensor_ids: Sequence[str], origin: str) -> Equipment:
    """Read the topology of a machine.

    Args:
        path: YAML or JSON.
        sensor_ids: sensors that it must have.
        origin: of the sensor ids, for messages, such as "a column of the files".

    Raises:
        TopologyError: the file can't be read, has errors, or lacks a sensor.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        message = f"expected a topology file, found none to read ({error.strerror})"
        raise TopologyError(str(path), (("", message),)) from error
    equipment = read_equipment(text, path.name)
    if findings := missing_sensors(equipment, sensor_ids, origin):
        raise TopologyError(path.name, tuple(findings))
    return equipment


def missing_sensors(
    equipment: Equipment, sensor_ids: Sequence[str], origin: str
) -> list[tuple[str, str]]:
    """Return a finding for each of these sensors that a topology lacks."""
    return [
        (
            "components",
            f"expected a sensor '{sensor_id}' as {origin}, found none: add it to its component",
        )
        for sensor_id in sensor_ids
        if sensor_id not in equipment.sensor_ids
    ]


def renamed(equipment: Equipment, equipment_id: str, **changes: str) -> Equipment:
    """Return the topology of another machine of the same design.

    Raises:
        TopologyError: the id is invalid.
    """
    data = {**equipment.model_dump(mode="json"), "equipment_id": equipment_id, **changes}
    return parse_equipment(data, f"equipment id '{equipment_id}'")


def microseconds_of(start: datetime, period: timedelta, rule: str) -> int:
    """Convert the start of an import to microseconds since 1970-01-01T00:00Z.

    Args:
        start: with a time zone.
        period: the start is a multiple of it.
        rule: the same in words, for the message.

    Raises:
        ReadingError: the start has no time zone or is no multiple of the period.
    """
    if start.tzinfo is None:
        raise ReadingError(
            f"expected a start with a time zone, found {start.isoformat()}: add Z for UTC", "start"
        )
    since_epoch = start - _EPOCH
    if since_epoch % period:
        raise ReadingError(
            f"expected a start on {rule}, found {start.isoformat()}: round it", "start"
        )
    return since_epoch // timedelta(microseconds=1)


async def run_import(
    settings: Settings,
    parts: str,
    work: Callable[[Store, Callable[[Progress], None]], Awaitable[Progress]],
) -> None:
    """Run an import into the store of the settings and print its progress and result.

    Args:
        settings: name the database.
        parts: what `Progress.done` counts, such as "cycles".
        work: the import; it calls its second argument after every block.
    """
    started = time.monotonic()

    def report(progress: Progress) -> None:
        rate = progress.readings / max(time.monotonic() - started, 1e-6)
        counted = f"{progress.done}/{progress.total} {parts}, {progress.readings} readings"
        print(f"{counted}, {rate:,.0f} readings/s", flush=True)

    store = open_store(settings)
    try:
        done = await work(store, report)
    finally:
        await store.close()
    known = done.readings - done.accepted
    took_s = time.monotonic() - started
    print(f"imported {done.accepted} new readings, {known} known before, in {took_s:.1f} s")
