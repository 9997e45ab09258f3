"""Finds out whether a database does all that the application needs of one.

The suite applies all migrations in a schema of its own, writes, reads, drops and explains there as
the application does, and rolls everything back. What it says of the application's own tables, it
reads in a read-only transaction.
Invariant: no row of a user is written, and nothing of the suite is left.
"""

import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from app.core.errors import StoreError
from app.store.check_server import Check, check_server
from app.store.migrate import Edition, read_migrations
from app.store.pool import Database, Session
from app.store.postgres_errors import translated
from app.store.statements import Row, queries

_MONTHS = tuple(datetime(1990, month, 1, tzinfo=UTC) for month in (1, 3, 5))
"""Of the suite's rows; older than any row of a user, so that names of partitions never meet."""
_HOUR = timedelta(hours=1)
_SECOND_US = 1_000_000
_EXPLAINED = (
    "readings of an hour",
    "grid of an hour",
    "diagnoses of an hour",
    "shadow answers of an hour",
)
_LOCKS = re.compile(r"(?<=pg_advisory_xact_lock\()7207|(?<=pg_advisory_xact_lock_shared\()7207")
"""Keys of the application's locks; the suite holds its own to its end, for which nobody waits."""


class StoreCheck:
    """Checks one database.

    Args:
        database: of which a connection with the rights of its login is used.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> list[Check]:
        """Check everything.

        Raises:
            StoreUnavailable: the database can't be reached.
            StoreError: it refused the connection.
        """
        async with self._database.patient_session(as_owner=True) as session:
            (server,) = await session.fetch(queries()["check_server"])
            found = list(check_server(server))
            edition: Edition = "timescale" if server["timescaledb"] else "plain"
            edition, own = await _own_tables(session, edition)
            found += own
            if any(each.level == "failed" for each in found):
                return found
            return found + await _Suite(session, edition, server["extension_schema"]).run()


async def _own_tables(session: Session, edition: Edition) -> tuple[Edition, list[Check]]:
    """Report the schema of the application and its edition, without writing."""
    found: list[Check] = []
    async with session.transaction(readonly=True):
        (facts,) = await session.fetch(queries()["server_facts"])
        if not facts["has_schema"]:
            none = "none yet; the first start of the service makes it"
            return edition, [Check("schema", "ok", none)]
        applied = await session.fetch(queries()["applied_migrations"])
        newest = max((row["version"] for row in applied), default=0)
        expected = max(step.version for step in read_migrations())
        made: Edition = applied[0]["edition"] if applied else edition
        if made != edition and made == "timescale":
            message = "expected TimescaleDB, with which this schema was made, found none: install"
            found.append(Check("schema", "failed", message + " it and restore the backup"))
            return made, found
        if newest > expected:
            message = f"expected a schema of at most {expected}, found {newest}: run that version"
            return made, [*found, Check("schema", "failed", message)]
        if newest < expected:
            message = f"expected schema {expected}, found {newest}: the next start migrates it"
            return made, [*found, Check("schema", "short", message)]
        found.append(Check("schema", "ok", f"revision {newest}, edition {made}"))
        pending = await session.fetchval(queries()["check_pending"])
        if pending:
            message = f"expected hourly health of all machines, found {pending} without: the"
            found.append(Check("health", "short", message + " service adds them up, wait"))
        sizes = await session.fetch(queries()["check_sizes"])
        said = ", ".join(f"{each['name']} {each['parts']}" for each in sizes) or "none yet"
        found.append(Check("chunks" if made == "timescale" else "partitions", "ok", said))
        if made == "timescale":
            found += await _policies(session)
        else:
            said = "the service drops partitions beyond retention_days; none is compressed"
            found.append(Check("policies", "ok", said))
    return made, found


async def _policies(session: Session) -> list[Check]:
    found = []
    jobs = await session.fetch(queries()["check_policies"])
    said = "; ".join(f"{each['proc_name']} {each['table_name']}".strip() for each in jobs)
    found.append(Check("policies", "ok" if jobs else "short", said or "none: see `licence`"))
    found += [
        Check(
            "policies",
            "short",
            f"expected job {job['job_id']} ({job['proc_name']} {job['table_name']}) to succeed, "
            f"found {job['total_failures']} failures: see timescaledb_information.job_errors",
        )
        for job in jobs
        if job["last_run_status"] == "Failed"
    ]
    chunks = await session.fetch(queries()["check_compression"])
    said = ", ".join(
        f"{each['hypertable_name']} {each['compressed']} of {each['chunks']}" for each in chunks
    )
    found.append(Check("compressed", "ok", said or "no chunks yet"))
    return found


class _Suite:
    """The statements of the application in a schema that is rolled back."""

    def __init__(self, session: Session, edition: Edition, extension: str | None) -> None:
        self._session = session
        self._edition = edition
        self._extension = extension
        self._found: list[Check] = []

    async def run(self) -> list[Check]:
        transaction = self._session.transaction()
        await transaction.start()
        try:
            if await self._step("migrations", self._migrate):
                for name, step in (
                    ("readings", self._readings),
                    ("diagnoses", self._diagnoses),
                    ("hourly health", self._health),
                    ("tenants", self._tenants),
                    *((f"plan: {name}", self._plan(name)) for name in _EXPLAINED),
                    ("compression", self._compress),
                    ("retention", self._retention),
                ):
                    await self._step(name, step)
        finally:
            await transaction.rollback()
        return self._found

    async def _step(self, name: str, work: Callable[[], Awaitable[str]]) -> bool:
        """Do a part of the suite; one that fails does not keep the others from running."""
        point = self._session.transaction()
        await point.start()
        try:
            with translated():
                said = await work()
        except (StoreError, _Unlike) as error:
            await point.rollback()
            cause = error.__cause__ or error
            self._found.append(
                Check(
                    name,
                    "failed",
                    f"expected the statements of the application to work, found: {cause}: compare "
                    "the version and rights of the server with docs/how-to/back-up-and-restore.md",
                )
            )
            return False
        await point.commit()
        if said:
            self._found.append(Check(name, "ok", said))
        return True

    async def _fetch(self, name: str, *arguments: object) -> list[Row]:
        return await self._session.fetch(queries()[name], *arguments)

    async def _migrate(self) -> str:
        schema = f"hydraulic_check_{secrets.token_hex(6)}"
        path = [schema, *([self._extension] if self._extension else [])]
        await self._fetch("check_search", path)
        await self._fetch("check_create_schema")
        steps = [step for step in read_migrations() if step.edition in (None, self._edition)]
        for step in steps:
            await self._session.execute(_LOCKS.sub("7208", step.text))
        await self._fetch("check_create_explain")
        await self._fetch("create_migrations")
        await self._fetch("grant_application")
        await self._fetch("begin_session", True)  # noqa: FBT003 - of this transaction
        user = await self._session.fetchval(queries()["check_user"])
        return f"{len(steps)} applied in a schema of their own; works as {user}"

    async def _readings(self) -> str:
        topology = json.dumps({"design": "check", "components": []})
        (put,) = await self._fetch("put_equipment", "check", topology, "r", _SECOND_US, "{}")
        await self._fetch("add_sensors", put["equipment_key"], ["a", "b"])
        await self._fetch("prepare_months", list(_MONTHS))
        times = [_us(month) + second * _SECOND_US for month in _MONTHS for second in range(60)]
        for expected in (len(times) * 2, 0):  # the second time they are duplicates
            (written,) = await self._fetch(
                "write_readings",
                ["check", "check"],
                ["a", "b"],
                [1] * len(times) + [2] * len(times),
                times * 2,
                [1.5] * len(times) * 2,
                None,
            )
            _same("readings that are new", expected, written["accepted"])
        first = _us(_MONTHS[1]) // _SECOND_US
        (window,) = await self._fetch("read_windows", "*", ["check"], [first], [60])
        _same("bins of a window", 60, len(window["times"]) // 8)
        bins = await self._fetch(
            "bin_readings", "check", _MONTHS[1], _MONTHS[1] + _HOUR, ["a"], timedelta(seconds=30)
        )
        _same("bins of 30 s", [30, 30], [row["count"] for row in bins])
        counts = await self._fetch("reading_counts", "check", _MONTHS[0], _MONTHS[2] + _HOUR)
        _same("readings per minute", [120] * 3, [row["readings"] for row in counts])
        return f"{len(times) * 2} written once, read as windows, bins and counts"

    async def _diagnoses(self) -> str:
        bodies = [_body(0.25 * (1 + number)) for number in range(3)]
        rows = [
            (f"d{number}", month, "check", month, month, "1", "ok", 0.5, body, None)
            for number, (month, body) in enumerate(zip(_MONTHS, bodies, strict=True))
        ]
        for _ in range(2):
            await self._fetch("insert_diagnoses", *map(list, zip(*rows, strict=True)))
        shadows = [
            (f"d{number}", month, "check", month, month, "2", "1", 0.1, 0.1, body, None)
            for number, (month, body) in enumerate(zip(_MONTHS, bodies, strict=True))
        ]
        await self._fetch("insert_shadow_answers", *map(list, zip(*shadows, strict=True)))
        history = await self._fetch("diagnosis_history", "check", None, None, 10, None, None)
        _same("diagnoses, newest first", bodies[::-1], [row["body"] for row in history])
        (one,) = await self._fetch("get_diagnosis", "d1")
        _same("a diagnosis", bodies[1], one["body"])
        return "stored once, returned unchanged, newest first"

    async def _health(self) -> str:
        interval = (_MONTHS[0], _MONTHS[2] + _HOUR)
        (machine,) = await self._fetch("health_of_equipment", "check", *interval, "hour")
        _same("hours", list(_MONTHS), machine["times"])
        _same("their health", [0.25, 0.5, 0.75], machine["health"])
        (fleet,) = await self._fetch("health_of_fleet", *interval, "hour")
        _same("that of the fleet", [0.25, 0.5, 0.75], fleet["health"])
        return "follows the diagnoses"

    async def _tenants(self) -> str:
        await self._fetch("act_for", "nobody", "check")
        try:
            for statement, arguments in (
                ("find_equipment", (None, None)),
                ("diagnosis_history", ("check", None, None, 10, None, None)),
                ("health_of_fleet", (_MONTHS[0], _MONTHS[2] + _HOUR, "hour")),
                ("reading_counts", ("check", _MONTHS[0], _MONTHS[2] + _HOUR)),
            ):
                rows = await self._fetch(statement, *arguments)
                _same(f"rows of {statement} for another tenant", 0, len(rows))
        finally:
            await self._fetch("act_for", "*", "check")
        return "another tenant sees nothing"

    def _plan(self, name: str) -> Callable[[], Awaitable[str]]:
        async def explain() -> str:
            named = queries()
            statement = {
                "readings of an hour": named["check_readings"],
                "grid of an hour": named["check_grid_of_hour"],
                "diagnoses of an hour": named["check_diagnoses"],
                "shadow answers of an hour": named["check_shadow_answers"],
            }[name]
            (row,) = await self._fetch("check_explain", statement, _MONTHS[1], _MONTHS[1] + _HOUR)
            read = sorted(set(_scanned(json.loads(row[0])[0]["Plan"])))
            if len(read) != 1:
                raise _Unlike(f"expected a plan that reads one part of three, found {read}")
            word = "chunk" if self._edition == "timescale" else "partition"
            return f"reads one {word} of three"

        return explain

    async def _compress(self) -> str:
        if self._edition == "plain":
            return ""
        licence = await self._session.fetchval(queries()["check_licence"])
        if licence != "timescale":
            return ""
        await self._fetch("check_reset_role")
        before = await self._grid()
        await self._fetch("check_compress_oldest")
        _same("bins after compression", before, await self._grid())
        return "bins read the same from a compressed chunk"

    async def _grid(self) -> list[Any]:
        return [tuple(row) for row in await self._fetch("check_grid", 1, _MONTHS[1])]

    async def _retention(self) -> str:
        dropped = 0
        while count := (await self._fetch("drop_before", _MONTHS[1]))[0][0]:
            dropped += count
        (found,) = await self._fetch("data_range", "check")
        _same("the first bin that is left", _us(_MONTHS[1]), found["first_us"])
        return f"{dropped} parts dropped, younger ones kept"


class _Unlike(Exception):
    """An answer of the database differs from the expected one."""


def _same(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise _Unlike(f"expected {what} {expected}, found {found}")


def _us(at: datetime) -> int:
    return int(at.timestamp()) * _SECOND_US


def _body(health: float) -> str:
    component = {"component_id": "pump", "health": health, "state": "watch", "basis": "labels"}
    return json.dumps({"input": {"source": "store"}, "components": [component]})


def _scanned(plan: dict[str, Any]) -> Iterator[str]:
    """Yield the relations that a plan reads; TimescaleDB's append names the hypertable too."""
    is_append = plan.get("Custom Plan Provider", "").endswith("Append")
    if "Relation Name" in plan and not is_append:
        yield plan["Relation Name"]
    for part in plan.get("Plans", ()):
        yield from _scanned(part)


def passed(checks: Sequence[Check]) -> bool:
    """Return whether nothing failed."""
    return all(each.level != "failed" for each in checks)
