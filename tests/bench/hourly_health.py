"""Hourly health from its aggregates beside the stored diagnoses, and the restore of a backup.

`python -m tests.bench.hourly_health` measures the embedded server, and with `TEST_TIMESCALE_DSN`
TimescaleDB too, and writes `docs/reference/measured/store.json`. Rows are made by SQL on the
server, with triggers off: a diagnosis of each machine an hour with seven components, and the
aggregates that these have.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from app.store.backup import back_up, restore
from app.store.embedded.server import ensure_embedded, release_embedded
from app.store.pool import PoolLimits
from app.store.store import Store
from tests.system import PROJECT_DIR

START = datetime(2026, 1, 1, tzinfo=UTC)
MEASURED = PROJECT_DIR / "docs/reference/measured/store.json"
ROUNDS, RAW_ROUNDS = 15, 1
COMPONENTS = 7

DIAGNOSES = """
insert into {table} (
    diagnosis_id, created_at, equipment_id, window_start, window_end, model_version, status, health,
    body, tenant
)
with kinds as materialized (
    select kind, ('{{"input":{{"source":"store"}},"components":[' || string_agg(format(
        '{{"component_id":"c%s","health":%s,"interval":[0.1,0.9],"state":"watch",'
        '"basis":"labels","condition":"100","confidence":0.9,"degradation_rate":null}}',
        part, 0.5 + ((kind + part) % 10) / 25.0
    ), ',') || ']}}')::json as body
    from generate_series(0, 9) kind cross join generate_series(1, {components}) part
    group by kind
)
select
    md5(machine || '/' || at), at, 'm-' || machine, at - interval '1 minute', at, '1', 'ok', 0.5,
    kinds.body, 'default'
from generate_series($1::timestamptz, $2::timestamptz - interval '1 hour', interval '1 hour') at
cross join generate_series(0, $3::integer - 1) machine
join kinds on kind = (machine * 7 + extract(hour from at)::integer) % 10
"""
HEALTHS = """
select
    at, 'default', 'm-' || machine, 'c' || part,
    0.5 + ((machine * 7 + extract(hour from at)::integer + part) % 10) / 25.0, 'watch'
from generate_series($1::timestamptz, $2::timestamptz - interval '1 hour', interval '1 hour') at
cross join generate_series(0, $3::integer - 1) machine
cross join generate_series(1, {components}) part
"""
FILL = {
    "timescale": [
        "insert into component_health (time, tenant, equipment_id, component_id, health, state) "
        + HEALTHS
    ],
    "plain": [
        "insert into health_hourly select tenant, machine, part, at, 1, health, health, health, "
        "1, 0, 0 from (" + HEALTHS + ") as made (at, tenant, machine, part, health, state)",
        "insert into fleet_health_hourly select tenant, part, at, count(*), sum(health), "
        "count(*), 0, 0 from ("
        + HEALTHS
        + ") as made (at, tenant, machine, part, health, state) group by tenant, part, at",
    ],
}
RAW = """
select part.component_id, date_trunc('hour', window_end, 'UTC') as hour, count(*) as diagnoses,
    avg(part.health) as health
from diagnoses
cross join lateral healths_of(body) part
where window_end >= $1 and window_end < $2 and ($3::text is null or equipment_id = $3)
group by 1, 2
order by 1, 2
"""
READINGS = """
insert into sensor_readings (time, equipment_key, slot, value)
select $1::timestamptz + second * interval '1 second', equipment_key, slot, 100 + second % 7
from generate_series(0, $2::integer - 1) second, equipment, generate_series(0, 19) slot
"""
GRID = """
insert into sensor_grid (time, equipment_key, vals)
select $1::timestamptz + second * interval '1 second', equipment_key,
    array_fill((100 + second % 7)::real, array[20])
from generate_series(0, $2::integer - 1) second, equipment
"""
REGISTER = [
    (
        "insert into equipment (equipment_id, topology, revision, grid_us) "
        "select 'm-' || n, '{{\"design\": \"bench\"}}', 'r', 1000000 "
        "from generate_series(0, {machines} - 1) n"
    ),
    (
        "insert into equipment_sensors (equipment_key, slot, sensor_id) "
        "select equipment_key, slot, 'S' || slot from equipment, generate_series(0, 19) slot"
    ),
]


def _with_database(dsn: str, name: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


async def _filled(server: str, name: str, *statements: tuple[str, Any]) -> tuple[str, str]:
    """Create a database, migrate and fill it; return its DSN and edition."""
    admin = await asyncpg.connect(server)
    await admin.execute(f"drop database if exists {name} with (force)")
    await admin.execute(f"create database {name}")
    await admin.close()
    dsn = _with_database(server, name)
    store = Store(dsn)
    edition = await store.migrate()
    await store.close()
    session = await asyncpg.connect(dsn, server_settings={"hydraulic.tenant": "*"})
    await session.execute("set session_replication_role = replica")
    for statement, arguments in statements:
        if callable(arguments):
            await arguments(session, edition)
        else:
            await session.execute(statement, *arguments)
    await session.close()
    return dsn, edition


async def _timed(work: Callable[[], Awaitable[Any]], rounds: int) -> tuple[float, Any]:
    """Return the median time of a few rounds in milliseconds, and the last result."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        found = await work()
        times.append((time.perf_counter() - started) * 1_000)
    return statistics.median(times), found


async def measure_health(server: str, machines: int, days: int) -> dict[str, object]:
    """Measure 90 days of hourly health of a fleet and of one of its machines."""
    end = START + timedelta(days=days)

    async def fill(session: "asyncpg.Connection[asyncpg.Record]", edition: str) -> None:
        months = [START + timedelta(days=day) for day in range(days + 1)]
        await session.execute("select prepare_months($1)", sorted({_month(at) for at in months}))
        if edition == "plain":
            await session.execute("select prepare_health_months($1)", months)
        table = "diagnosis_rows" if edition == "timescale" else "diagnoses"
        # a week at a time: the memory of one statement does not grow with the days
        for first in range(0, days, 7):
            span = START + timedelta(days=first), min(START + timedelta(days=first + 7), end)
            made = DIAGNOSES.format(table=table, components=COMPONENTS)
            await session.execute(made, *span, machines)
            for statement in FILL[edition]:
                await session.execute(statement.format(components=COMPONENTS), *span, machines)
        if edition == "timescale":
            for name in ("health_hourly_total", "fleet_health_hourly_total"):
                while True:
                    try:
                        await session.execute(
                            f"call refresh_continuous_aggregate('{name}', null, null)"
                        )
                        break
                    except asyncpg.LockNotAvailableError:
                        await asyncio.sleep(1.0)
        await session.execute("vacuum analyze")

    began = time.perf_counter()
    dsn, edition = await _filled(server, "hydraulic_bench_health", ("", fill))
    filled_s = time.perf_counter() - began
    store = Store(dsn, PoolLimits(max_size=2, statement_timeout_s=600.0, command_timeout_s=600.0))
    session = await asyncpg.connect(dsn, server_settings={"hydraulic.tenant": "*", "jit": "off"})
    version = await session.fetchval("select current_setting('server_version')")
    extension = await session.fetchval(
        "select extversion from pg_extension where extname = 'timescaledb'"
    )
    fleet_ms, fleet = await _timed(lambda: store.health_of_fleet(START, end), ROUNDS)
    machine_ms, machine = await _timed(lambda: store.health_of("m-7", START, end), ROUNDS)
    raw_machine_ms, raw_machine = await _timed(
        lambda: session.fetch(RAW, START, end, "m-7"), RAW_ROUNDS
    )
    raw_fleet_ms, raw_fleet = await _timed(lambda: session.fetch(RAW, START, end, None), RAW_ROUNDS)
    values = sum(len(each.times) for each in fleet)
    assert values == len(raw_fleet) == sum(len(each.times) for each in machine)
    assert len(raw_machine) == values
    by_hour = {(row["component_id"], row["hour"]): row["health"] for row in raw_fleet}
    for component in fleet:
        for at, health in zip(component.times, component.health, strict=True):
            assert abs(by_hour[component.component_id, at] - health) < 1e-9
    size = await session.fetchval("select pg_database_size(current_database())")
    await session.close()
    await store.close()
    return {
        "edition": edition,
        "server": version,
        "timescaledb": extension,
        "machines": machines,
        "days": days,
        "diagnoses": machines * days * 24,
        "values": values,
        "database_mb": round(size / 1e6),
        "filled_s": round(filled_s, 1),
        "fleet_ms": round(fleet_ms, 1),
        "raw_fleet_ms": round(raw_fleet_ms, 1),
        "machine_ms": round(machine_ms, 1),
        "raw_machine_ms": round(raw_machine_ms, 1),
    }


async def measure_restore(server: str, machines: int, seconds: int) -> dict[str, object]:
    """Measure the backup and the restore of machines with readings, grid and diagnoses."""

    async def fill(session: "asyncpg.Connection[asyncpg.Record]", edition: str) -> None:
        await session.execute("select prepare_months($1)", [START])
        for statement in REGISTER:
            await session.execute(statement.format(machines=machines))
        await session.execute(READINGS, START, seconds)
        await session.execute(GRID, START, seconds)
        table = "diagnosis_rows" if edition == "timescale" else "diagnoses"
        made = DIAGNOSES.format(table=table, components=COMPONENTS)
        await session.execute(made, START, START + timedelta(hours=10), machines)
        await session.execute("analyze")

    dsn, edition = await _filled(server, "hydraulic_bench_backup", ("", fill))
    admin = await asyncpg.connect(server)
    await admin.execute("drop database if exists hydraulic_bench_restored with (force)")
    await admin.execute("create database hydraulic_bench_restored")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "bench.dump"
        started = time.perf_counter()
        manifest = await back_up(dsn, file)
        backup_s = time.perf_counter() - started
        started = time.perf_counter()
        # compares the rows of every table, and verifies the audit log
        await restore(_with_database(server, "hydraulic_bench_restored"), file)
        restore_s = time.perf_counter() - started
    for name in ("hydraulic_bench_restored", "hydraulic_bench_backup"):
        await admin.execute(f"drop database {name} with (force)")
    await admin.close()
    return {
        "edition": edition,
        "machines": machines,
        "readings": manifest.rows["sensor_readings"],
        "rows": sum(manifest.rows.values()),
        "file_mb": round(manifest.size_bytes / 1e6, 1),
        "backup_s": round(backup_s, 1),
        "restore_s": round(restore_s, 1),
    }


def _month(at: datetime) -> datetime:
    return at.replace(day=1, hour=0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.hourly_health",
        description="measure hourly health and the restore of a backup",
    )
    parser.add_argument("--machines", type=int, default=1_000, help="with hourly health")
    parser.add_argument(
        "--editions", nargs="+", default=["plain", "timescale"], choices=["plain", "timescale"]
    )
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--restored", type=int, default=10_000, help="machines of the restore")
    parser.add_argument("--seconds", type=int, default=15, help="of readings of each of them")
    return parser


def main() -> None:
    """Measure each edition and write its results in place of those of an earlier run."""
    given = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="hydraulic-bench-") as parent:
        directory = Path(parent) / "postgres"
        for edition in given.editions:
            if edition == "plain":
                dsn = ensure_embedded(directory)
            else:
                dsn = os.environ.get("TEST_TIMESCALE_DSN", "")
            if not dsn:
                print("timescale was not measured: TEST_TIMESCALE_DSN has no address")
                continue
            load = [round(each, 1) for each in os.getloadavg()]
            restored = asyncio.run(measure_restore(dsn, given.restored, given.seconds))
            health = asyncio.run(measure_health(dsn, given.machines, given.days))
            asyncio.run(_drop(dsn))
            write(health | {"load_before": load}, restored)
        release_embedded(directory)


def write(health: dict[str, Any], restored: dict[str, Any]) -> None:
    """Write what was measured of one edition; the other one's stays."""
    known = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    facts = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "health": health,
        "restore": restored,
    }
    MEASURED.write_text(json.dumps(known | {health["edition"]: facts}, indent=1) + "\n")


async def _drop(server: str) -> None:
    admin = await asyncpg.connect(server)
    await admin.execute("drop database if exists hydraulic_bench_health with (force)")
    await admin.close()


if __name__ == "__main__":
    main()
