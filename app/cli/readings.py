"""`hydraulic readings import`: writes files of readings into the store, or posts them to a service.

Invariant: the progress file names only what is committed, so the same command after any end goes on
where the last one stopped, and reads at most one part again; readings that are stored already count
as duplicates.
"""

import asyncio
import csv
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol
from urllib.parse import quote

import httpx
import numpy as np
import orjson
import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from app.cli.diagnose import sent, service_client
from app.cli.reading_files import Part, ReadingFile, Rejected, SensorsOrError
from app.core.command_line import FAILED, AsJson, Dsn, command_group, reported, split_commas
from app.core.errors import DeletedEquipment, InputError, UnknownEquipment, UnknownError
from app.core.settings import Settings
from app.store.readings import Readings
from app.store.store import Store, open_store

commands = command_group("Import files of readings.")
ATTEMPTS = 10
"""How often a body is posted while the service is busy."""
MAX_POSTED = 100_000
"""Most readings of a body, so that it stays below the limit of bytes."""


class Counts(BaseModel):
    """What became of the readings of files."""

    accepted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    spooled: int = 0
    rejected: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Return the sums with other counts."""
        return Counts(
            **{name: getattr(self, name) + getattr(other, name) for name in Counts.model_fields}
        )


class State(BaseModel):
    """Progress of an import: what is committed.

    Args:
        source: digest of the file's identity and of what it is imported into.
        position: where the next part begins, see `Part`.
        row: number of the last row.
        rejected_bytes: size of the file of rejected rows.
        counts: so far.
    """

    source: str
    position: int = 0
    row: int = 1
    rejected_bytes: int = 0
    counts: Counts = Counts()


class Written(NamedTuple):
    """What became of readings that were written.

    Args:
        counts: of all.
        refused: position over all readings, and reason, of those that the service rejected and
            lists.
    """

    counts: Counts
    refused: list[tuple[int, str]]


class Target(Protocol):
    """Where readings are written."""

    async def sensors_of(self, equipment_id: str) -> SensorsOrError:
        """Return the sensors of a registered machine, or why there are none."""

    async def write(self, readings: Sequence[Readings]) -> Written:
        """Write readings; when it returns, they are committed."""


class StoreTarget:
    """Writes into the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def sensors_of(self, equipment_id: str) -> SensorsOrError:
        """See `Target`."""
        record = await self._store.get_equipment(equipment_id, deleted=True)
        if record is None:
            return UnknownEquipment(equipment_id)
        if record.deleted_at is not None:
            return DeletedEquipment(equipment_id, record.deleted_at)
        return frozenset(record.equipment.sensor_ids)

    async def write(self, readings: Sequence[Readings]) -> Written:
        """See `Target`."""
        done = await self._store.ingest_many(readings)
        counts = Counts(
            accepted=done.accepted, duplicates=done.duplicates, conflicts=len(done.conflicts)
        )
        return Written(counts, [])


class ServiceTarget:
    """Posts to a service."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    async def sensors_of(self, equipment_id: str) -> SensorsOrError:
        """See `Target`."""
        try:
            answer = sent(self._client, "GET", f"/v1/equipment/{quote(equipment_id, safe='')}")
        except UnknownError as error:
            return error
        return frozenset(
            sensor["sensor_id"]
            for component in answer.json()["components"]
            for sensor in component["sensors"]
        )

    async def write(self, readings: Sequence[Readings]) -> Written:
        """See `Target`."""
        lines = await asyncio.to_thread(_ndjson, readings)
        counts, refused = Counts(), []
        for first in range(0, len(lines), MAX_POSTED):
            some = lines[first : first + MAX_POSTED]
            found = await asyncio.to_thread(self._post, b"\n".join(some))
            refused += [(first + each["line"] - 1, each["reason"]) for each in found["rejected"]]
            counts = counts.plus(
                Counts(
                    accepted=found["accepted"],
                    duplicates=found["duplicates"],
                    conflicts=found.get("conflicts", 0),
                    spooled=found.get("spooled", 0),
                    rejected=found.get("rejected_count") or len(found["rejected"]),
                )
            )
        return Written(counts, refused)

    def _post(self, body: bytes) -> dict[str, Any]:
        answer = sent(
            self._client,
            "POST",
            "/v1/readings",
            attempts=ATTEMPTS,
            is_answer=_rejects_all,
            content=body,
            headers={"content-type": "application/x-ndjson"},
        )
        return dict(answer.json())


def _rejects_all(answer: httpx.Response) -> bool:
    # a problem that also has the fields of an answer
    return answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY and "rejected" in answer.json()


def _ndjson(readings: Sequence[Readings]) -> list[bytes]:
    lines = []
    for block in readings:
        times = np.asarray(block.times_us, "datetime64[us]")
        values = np.asarray(block.values).tolist()
        for sensor_id, at, value in zip(
            block.sensor_ids, np.datetime_as_string(times, timezone="UTC"), values, strict=True
        ):
            line = {
                "equipment_id": block.equipment_id,
                "sensor_id": sensor_id,
                "time": at,
                "value": value,
            }
            lines.append(orjson.dumps(line))
    return lines


@commands.command(
    "import", epilog="Example: hydraulic readings import history.csv --equipment press-1"
)
def import_readings(
    files: Annotated[
        list[Path], typer.Argument(help="CSV with a header, also .gz or .zst, or Parquet.")
    ],
    equipment: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Machine of files without a column equipment_id."),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="COLUMNS", help="Columns to leave out.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Post to this service instead of writing to the database.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin at the start, not where an import ended.")
    ] = False,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Import readings of any number; after any end the same command goes on.

    Long files have the columns equipment_id, sensor_id, time and value; wide files have time and a
    column for each sensor. --equipment replaces the column equipment_id. Times have their zone.
    Readings that are stored already count as duplicates, those of a sensor and time with another
    value as conflicts. Rejected rows are written to FILE.rejected.csv with their reasons, and make
    the exit status 1.
    """
    settings = Settings().at(dsn)
    total, started = Counts(), time.monotonic()
    with reported("the same command goes on where this one ended"):
        for path in files:
            source = _source(path, url or str(settings.dsn and settings.dsn.get_secret_value()))
            importing = Import(path, equipment, split_commas(ignore), source)
            if restart:
                importing.forget()
            total = total.plus(asyncio.run(importing.run(settings, url)))
    seconds = time.monotonic() - started
    if as_json:
        typer.echo(orjson.dumps(total.model_dump() | {"seconds": seconds}).decode())
    else:
        typer.echo(
            f"{total.accepted} new readings, {total.duplicates} stored before, {total.conflicts} "
            f"conflicts, {total.rejected} rejected, {total.spooled} waiting for the database, in "
            f"{seconds:.1f} s"
        )
    if total.rejected:
        written = [f"'{path}'" for path in map(_rejected_path, files) if path.exists()]
        typer.echo(f"rejected rows and their reasons are in {', '.join(written)}", err=True)
        raise typer.Exit(FAILED)


def _rejected_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.rejected.csv")


def _source(path: Path, target: str) -> str:
    """Return a digest of a file's identity and of the place it is imported into.

    Raises:
        InputError: there is no such file.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(
            f"expected a file of readings at '{path}', found none ({error.strerror})", str(path)
        ) from error
    text = f"{path.resolve()} {found.st_size} {found.st_mtime_ns} {target}"
    return hashlib.sha256(text.encode()).hexdigest()


class Import:
    """An import of one file.

    Args:
        path: the file.
        equipment_id: of all its readings; None if a column has it.
        ignored: columns that are left out.
        source: see `State`.
    """

    def __init__(
        self, path: Path, equipment_id: str | None, ignored: Sequence[str], source: str
    ) -> None:
        self._path, self._equipment_id, self._ignored = path, equipment_id, ignored
        self._state_path = path.with_name(f"{path.name}.import.json")
        self._rejected_path = _rejected_path(path)
        self._state = self._read_state(source)

    def _read_state(self, source: str) -> State:
        try:
            state = State.model_validate_json(self._state_path.read_bytes())
        except (OSError, ValidationError):
            return State(source=source)
        return state if state.source == source else State(source=source)

    def forget(self) -> None:
        """Begin at the start of the file."""
        self._state = State(source=self._state.source)

    async def run(self, settings: Settings, url: str | None) -> Counts:
        """Import the rest of the file and return the counts of the whole."""
        loop = asyncio.get_running_loop()
        known: dict[str, SensorsOrError] = {}

        async with _target(settings, url) as target:

            def sensors_of(equipment_id: str) -> SensorsOrError:
                # the file is read in a thread
                if equipment_id not in known:
                    lookup = target.sensors_of(equipment_id)
                    known[equipment_id] = asyncio.run_coroutine_threadsafe(lookup, loop).result()
                return known[equipment_id]

            now = datetime.now(UTC)
            file = await asyncio.to_thread(
                ReadingFile, self._path, self._equipment_id, self._ignored, sensors_of, now
            )
            self._cut_rejected()
            parts = file.parts(self._state.position, self._state.row)
            with _progress() as progress:
                task = progress.add_task(
                    self._path.name, total=file.size, completed=self._state.position, rate=""
                )
                started, written = time.monotonic(), 0
                part = await asyncio.to_thread(_next, parts)
                while part is not None:
                    # the next part is read while this one is written
                    reading = asyncio.create_task(asyncio.to_thread(_next, parts))
                    done = Written(Counts(), [])
                    if part.count:
                        done = await target.write(part.readings)
                    self._commit(part, done)
                    written += part.count
                    rate = written / (time.monotonic() - started)
                    progress.update(task, completed=part.position, rate=f"{rate:,.0f} readings/s")
                    part = await reading
        self._state_path.unlink(missing_ok=True)
        return self._state.counts

    def _cut_rejected(self) -> None:
        """Drop rejected rows that were written after the last commit."""
        if self._rejected_path.exists():
            os.truncate(self._rejected_path, self._state.rejected_bytes)
            if not self._state.rejected_bytes:
                self._rejected_path.unlink()

    def _commit(self, part: Part, written: Written) -> None:
        """Record that a part is written, first its rejected rows."""
        state = self._state
        rejected = len(part.rejected) + written.counts.rejected
        rows = part.rows
        for position, reason in written.refused:
            part.reject(rows[position], reason)
        if unlisted := written.counts.rejected - len(written.refused):
            part.rejected[Rejected(part.row, f"{unlisted} more rows up to this one", "")] = None
        if part.rejected:
            with self._rejected_path.open(
                "a", newline="", encoding="utf-8", errors="surrogateescape"
            ) as file:
                writer = csv.writer(file)
                if not state.rejected_bytes:
                    writer.writerow(Rejected._fields)
                writer.writerows(sorted(part.rejected))
                state.rejected_bytes = file.tell()
        state.position, state.row = part.position, part.row
        state.counts = state.counts.plus(written.counts.model_copy(update={"rejected": rejected}))
        fresh = self._state_path.with_name(f".{self._state_path.name}")
        fresh.write_text(state.model_dump_json())
        fresh.replace(self._state_path)


def _next(parts: Iterator[Part]) -> Part | None:
    return next(parts, None)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=2,
    )


@asynccontextmanager
async def _target(settings: Settings, url: str | None) -> AsyncIterator[Target]:
    if url is not None:
        with service_client(settings, url) as client:
            yield ServiceTarget(client)
        return
    store = open_store(settings)
    try:
        await store.migrate()
        yield StoreTarget(store)
    finally:
        await store.close()
