"""The store beside 10,000 machines and a year of history: `python -m tests.bench.store_scale`.

Two databases of one server take turns: one of 10 machines and one month, one of 10,000 machines and
13 months. Real are the registered machines and sensors, the number of partitions, the application's
statements through its pool, and 60-second windows of 1 Hz whose rows were written as live machines
write them (in the order of time, all machines in turn, so that each row is in a page of its own).

Simulated are the earlier months, with `history_ticks` ticks of each machine instead of 2.6 million
and one sensor of 20 in `sensor_readings`, and the hour before the last two minutes, with one tick
in `live_step_s` seconds except of ten machines. So indexes are one or two levels flatter than in
full months, and all data fit the page cache: reads from a disk are not measured.
"""

import argparse
import asyncio
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np

from app.core.errors import StoreUnavailable
from app.core.settings import Settings
from app.store.embedded.server import ensure_embedded, release_embedded
from app.store.pool import PoolLimits
from app.store.readings import Readings
from app.store.store import Store
from cluster import capacity
from tests.bench.store_history import (
    END_S,
    FULL,
    HOUR_S,
    QUICK,
    SENSORS,
    SMALL,
    HistoryDatabase,
    Sizes,
    diagnosis,
)
from tests.plans import nested_plans
from tests.rows import stored_row

READS = 16
"""Concurrent reads of a replica when connections are counted: twice the connections of its pool."""


def percentiles_ms(took_s: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile."""
    return float(np.median(took_s)) * 1000, float(np.percentile(took_s, 95)) * 1000


async def measure_reads(
    small: HistoryDatabase, large: HistoryDatabase, rounds: int
) -> list[dict[str, Any]]:
    """Measure latency and server CPU of reads, both databases in turn."""
    kinds: dict[str, tuple[int, int, Callable[[HistoryDatabase], Awaitable[None]]]] = {
        "60 s": (1, 20, lambda database: database.read(1)),
        "32 x 60 s": (32, 3, lambda database: database.read(32)),
        "60 min": (1, 4, lambda database: database.read_hour()),
    }
    rows = []
    for name, (windows, times, read) in kinds.items():
        took: dict[str, list[float]] = {small.name: [], large.name: []}
        cpu: dict[str, list[float]] = {small.name: [], large.name: []}
        for turn in range(rounds + 1):
            for database in (small, large):
                before = database.server_cpu_ms()
                for _ in range(times):
                    began = time.perf_counter()
                    await read(database)
                    if turn:
                        took[database.name].append(time.perf_counter() - began)
                if turn:
                    cpu[database.name].append((database.server_cpu_ms() - before) / times / windows)
        few, many = percentiles_ms(took[small.name]), percentiles_ms(took[large.name])
        rows.append(
            {
                "read": name,
                "small_p50_ms": few[0],
                "small_p95_ms": few[1],
                "large_p50_ms": many[0],
                "large_p95_ms": many[1],
                "p50_ratio": many[0] / few[0],
                "p95_ratio": many[1] / few[1],
                "small_cpu_ms_a_window": float(np.median(cpu[small.name])),
                "large_cpu_ms_a_window": float(np.median(cpu[large.name])),
            }
        )
    return rows


async def measure_ingest(
    small: HistoryDatabase, large: HistoryDatabase, rounds: int
) -> list[dict[str, Any]]:
    """Measure server CPU of posts through one connection, both databases in turn."""
    rows = []
    for machines, ticks, times in ((1, 1, 20), (1, 60, 4), (5, 1, 10), (5, 20, 3)):
        cpu: dict[str, list[float]] = {small.name: [], large.name: []}
        for turn in range(max(3, rounds // 3) + 1):
            for database in (small, large):
                before = database.server_cpu_ms()
                for _ in range(times):
                    await database.store.ingest_many(
                        database.ticks(database.sample_distinct(machines, 0, 1), ticks)
                    )
                if turn:
                    readings = times * machines * ticks * len(SENSORS)
                    cpu[database.name].append((database.server_cpu_ms() - before) * 1000 / readings)
        few, many = float(np.median(cpu[small.name])), float(np.median(cpu[large.name]))
        post = f"{machines} x {ticks} s"
        rows.append({"post": post, "small_us": few, "large_us": many, "ratio": many / few})
    return rows


async def under_load(database: HistoryDatabase, seconds: float) -> dict[str, float]:
    """Run two writers at full speed and a reader of 32 windows every 50 ms.

    A post has the readings of 5 machines over 20 s.
    """
    store = Store(database.dsn, PoolLimits(max_size=4))
    ends = time.perf_counter() + seconds
    written = 0
    slowest = 0.0
    took: list[float] = []

    async def write(writer: int) -> None:
        nonlocal written, slowest
        while (began := time.perf_counter()) < ends:
            written += (
                await store.ingest_many(database.ticks(database.sample_distinct(5, writer, 2), 20))
            ).accepted
            slowest = max(slowest, time.perf_counter() - began)

    async def read() -> None:
        while (began := time.perf_counter()) < ends:
            first = END_S - 60 - random.randrange(50)
            await store.read_windows([(name, first, 60) for name in database.sample(32)])
            took.append(time.perf_counter() - began)
            await asyncio.sleep(0.05)

    began = time.perf_counter()
    await asyncio.gather(write(0), write(1), read())
    elapsed_s = time.perf_counter() - began
    await store.close()
    p50, p95 = percentiles_ms(took)
    return {
        "readings_s": written / elapsed_s,
        "read_p50_ms": p50,
        "read_p95_ms": p95,
        "slowest_read_ms": 1000 * max(took),
        "slowest_write_ms": 1000 * slowest,
    }


async def measure_load(
    small: HistoryDatabase, large: HistoryDatabase, sizes: Sizes
) -> dict[str, float]:
    """Measure ingest under reads, both databases in turn; return medians and their ratios."""
    runs: dict[str, list[dict[str, float]]] = {small.name: [], large.name: []}
    for _ in range(4):
        for database in (small, large):
            runs[database.name].append(await under_load(database, sizes.load_s))
    medians = {
        name: {key: float(np.median([run[key] for run in found[1:]])) for key in found[0]}
        for name, found in runs.items()
    }
    return {
        **{f"small_{key}": value for key, value in medians[small.name].items()},
        **{f"large_{key}": value for key, value in medians[large.name].items()},
        "ingest_ratio": medians[large.name]["readings_s"] / medians[small.name]["readings_s"],
        "read_ratio": medians[large.name]["read_p50_ms"] / medians[small.name]["read_p50_ms"],
    }


async def measure_pruning(large: HistoryDatabase) -> dict[str, int]:
    """Count the partitions that the store's statements scan, from their plans."""
    name = large.sample(1)[0]
    start_us = (END_S + 40 * HOUR_S) * 1_000_000
    session = await asyncpg.connect(large.dsn)
    reads = await nested_plans(session, "read_windows", *2 * [([name], [END_S - 60], [60])])
    writes = await nested_plans(
        session,
        "write_readings",
        *(([name], ["S0"], [1], [start_us + tick * 1_000_000], [1.0], None) for tick in range(3)),
    )
    await session.close()
    partitions = await large.session.fetchval(
        "select count(*) from pg_inherits "
        "where inhparent in ('sensor_grid'::regclass, 'sensor_readings'::regclass)"
    )
    scanned = r"Scan .*using (sensor_(?:grid|readings)_\d{4}_\d\d)_pkey"
    return {
        "partitions_of_both_tables": partitions,
        "scanned_by_a_read": len(set(re.findall(scanned, reads))),
        "scanned_by_an_ingest": len(set(re.findall(scanned, writes))),
    }


async def measure_retention(large: HistoryDatabase, seconds: float) -> dict[str, float]:
    """Drop half of the months during ingest and reads."""
    cutoff = datetime(2026, 5, 1, tzinfo=UTC)
    admin = Store(large.dsn, PoolLimits(max_size=1))
    size = "select sum(pg_total_relation_size(inhrelid))::float8 from pg_inherits"
    before = await large.session.fetchval(size)
    loading = asyncio.create_task(under_load(large, seconds))
    await asyncio.sleep(seconds / 3)
    began = time.perf_counter()
    dropped = await admin.drop_before(cutoff)
    took_s = time.perf_counter() - began
    loaded = await loading
    await admin.close()
    return {
        "dropped_partitions": dropped,
        "dropped_mb": (before - await large.session.fetchval(size)) / 1e6,
        "took_ms": 1000 * took_s,
        "slowest_read_ms": loaded["slowest_read_ms"],
        "slowest_write_ms": loaded["slowest_write_ms"],
    }


async def measure_connections(
    large: HistoryDatabase, replicas: Sequence[int]
) -> list[dict[str, Any]]:
    """Count server connections and refused reads of 1 to many replicas with `READS` reads each."""
    limit = int(await large.session.fetchval("show max_connections"))
    others = await large.session.fetchval(
        "select count(*) from pg_stat_activity where datname = 'large'"
    )
    rows = []
    for count in replicas:
        stores = [Store(large.dsn, PoolLimits()) for _ in range(count)]
        most = 0
        refused: list[str] = []
        done = asyncio.Event()

        async def watch(done: asyncio.Event = done) -> None:
            nonlocal most
            while not done.is_set():
                most = max(most, await large.session.fetchval(
                    "select count(*) - $1::bigint from pg_stat_activity where datname = 'large'",
                        others
                ))  # fmt: skip

        async def read(store: Store, refused: list[str] = refused) -> None:
            try:
                await store.read_windows([(name, END_S - 60, 60) for name in large.sample(32)])
            except StoreUnavailable as error:
                refused.append(error.message)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(read(store) for store in stores for _ in range(READS)))
        done.set()
        await watching
        for store in stores:
            await store.close()
        rows.append(
            {
                "replicas": count,
                "allowed_by_pools": count * PoolLimits().max_size,
                "allowed_by_server": limit,
                "most_seen": most,
                "reads": READS * count,
                "refused": len(refused),
                "message": refused[0] if refused else "",
            }
        )
    return rows


async def measure_diagnoses(large: HistoryDatabase, rounds: int) -> list[dict[str, float]]:
    """Measure CPU of storing diagnoses, in the client and on the server."""
    rows = []
    for batch in (1, 32, 256):
        server, client = [], []
        for turn in range(max(3, rounds // 3) + 1):
            times = max(1, 64 // batch)
            items = [
                [stored_row(diagnosis(name)) for name in large.sample(batch)] for _ in range(times)
            ]
            before, began = large.server_cpu_ms(), time.process_time()
            for item in items:
                await large.store.insert_diagnoses(item)
            if turn:
                client.append(1000 * (time.process_time() - began) / times / batch)
                server.append((large.server_cpu_ms() - before) / times / batch)
        rows.append(
            {
                "batch": batch,
                "server_ms": float(np.median(server)),
                "client_ms": float(np.median(client)),
            }
        )
    return rows


async def measure_listing(large: HistoryDatabase) -> dict[str, float]:
    """Measure listing all machines, and the longest time that it blocks the event loop."""
    blocked_s = 0.0

    async def watch() -> None:
        nonlocal blocked_s
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            blocked_s, last = max(blocked_s, time.perf_counter() - last), time.perf_counter()

    before, began = large.server_cpu_ms(), time.process_time()
    listed = len(await large.store.list_equipment())
    result = {"machines": float(listed), "client_ms": 1000 * (time.process_time() - began)}
    result["server_ms"] = large.server_cpu_ms() - before
    watching = asyncio.create_task(watch())
    await large.store.list_equipment()
    watching.cancel()
    return result | {"loop_blocked_ms": 1000 * blocked_s}


async def measure_bytes(large: HistoryDatabase, ticks: int) -> dict[str, float]:
    """Measure bytes on disk and in the WAL per reading, grid row and diagnosis."""
    start_us = int(datetime(2027, 3, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000
    names = [f"m-{number:05d}" for number in range(100)]
    numbers = np.random.default_rng(5)
    await large.store.ingest_many([Readings(names[0], ["S0"], [start_us - 1_000_000], [1.0])])
    await large.session.execute("checkpoint")
    wal = "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
    before = await large.session.fetchval(wal)
    for tick in range(ticks):
        times_us = np.full(len(SENSORS), start_us + tick * 1_000_000)
        for some in range(0, len(names), 20):
            await large.store.ingest_many(
                [
                    Readings(name, SENSORS, times_us, numbers.normal(100, 9, 20))
                    for name in names[some : some + 20]
                ]
            )
    readings_wal = float(await large.session.fetchval(wal) - before)
    before = await large.session.fetchval(wal)
    created = datetime(2027, 3, 1, tzinfo=UTC)
    for _ in range(8):
        items = [replace(diagnosis(name), created_at=created) for name in names]
        await large.store.insert_diagnoses([stored_row(item) for item in items])
    diagnoses_wal = float(await large.session.fetchval(wal) - before)
    sizes = {
        table: float(
            await large.session.fetchval(f"select pg_total_relation_size('{table}_2027_03')")
        )
        for table in ("sensor_readings", "sensor_grid", "diagnoses")
    }
    rows = ticks * len(names)
    return {
        "bytes_a_reading": sizes["sensor_readings"] / rows / len(SENSORS),
        "bytes_a_grid_row": sizes["sensor_grid"] / rows,
        "bytes_a_diagnosis": sizes["diagnoses"] / 800,
        "diagnosis_json_bytes": float(len(diagnosis("m").to_json())),
        "wal_bytes_a_reading": readings_wal / rows / len(SENSORS),
        "wal_bytes_a_diagnosis": diagnoses_wal / 800,
    }


async def measure(dsn: str, sizes: Sizes) -> dict[str, Any]:
    """Fill both databases on an empty server and run all measurements."""
    admin = await asyncpg.connect(dsn)
    small, large = HistoryDatabase("small", dsn, SMALL), HistoryDatabase("large", dsn, sizes)
    began = time.perf_counter()
    for database in (small, large):
        await admin.execute(f"create database {database.name}")
        await database.open()
    for database in (small, large):
        await database.find_server_process()
    fill_s = time.perf_counter() - began
    result: dict[str, Any] = {
        "sizes": asdict(sizes),
        "database_mb": await admin.fetchval("select pg_database_size('large')") / 1e6,
        "fill_s": fill_s,
        "reads": await measure_reads(small, large, sizes.rounds),
        "pruning": await measure_pruning(large),
        "ingest": await measure_ingest(small, large, sizes.rounds),
        "load": await measure_load(small, large, sizes),
        "diagnoses": await measure_diagnoses(large, sizes.rounds),
        "listing": await measure_listing(large),
        "bytes": await measure_bytes(large, 2 * sizes.rounds),
        "connections": await measure_connections(large, (1, 4, 16)),
        "retention": await measure_retention(large, max(3.0, sizes.load_s)),
        "took_s": time.perf_counter() - began,
        "load_average": os.getloadavg()[0],
    }
    for database in (small, large):
        await database.close()
    await admin.close()
    return result


def constants(result: dict[str, Any]) -> dict[str, float]:
    """Return the constants that `cluster/capacity.py` takes from a run, by its names."""
    found = result["bytes"]
    cpu_us = {row["post"]: row["large_us"] for row in result["ingest"]}
    (window,) = [
        row["large_cpu_ms_a_window"] for row in result["reads"] if row["read"].startswith("32")
    ]
    (store,) = [row["server_ms"] for row in result["diagnoses"] if row["batch"] == 32]
    return {
        "reading_bytes": found["bytes_a_reading"],
        "grid_row_bytes": found["bytes_a_grid_row"],
        "diagnosis_bytes": found["bytes_a_diagnosis"],
        "diagnosis_json_bytes": found["diagnosis_json_bytes"],
        "reading_wal_bytes": found["wal_bytes_a_reading"],
        "diagnosis_wal_bytes": found["wal_bytes_a_diagnosis"],
        "database_ingest_us": cpu_us["5 x 20 s"],
        "database_ingest_tick_us": cpu_us["1 x 1 s"],
        "database_window_ms": window,
        "database_diagnosis_ms": store,
    }


def run(sizes: Sizes) -> dict[str, Any]:
    """Measure on a temporary server.

    Args:
        sizes: `QUICK` (under 300 MB and a minute) or `FULL` (10,000 machines that all write).
    """
    with tempfile.TemporaryDirectory(
        prefix="hydraulic-bench-", ignore_cleanup_errors=True
    ) as parent:
        directory = Path(parent) / "postgres"
        result = asyncio.run(measure(ensure_embedded(directory, grace_s=0.0), sizes))
        release_embedded(directory)
        time.sleep(2.0)
    return result


def main() -> None:
    """Print tables and write `var/bench/store_scale.json`."""
    parser = argparse.ArgumentParser(
        description="measure the store beside 10,000 machines and a year of history"
    )
    parser.add_argument(
        "--full", action="store_true", help="all 10,000 machines write; some minutes and about 4 GB"
    )
    parser.add_argument(
        "--measured", action="store_true", help="write the constants to cluster/measured.json"
    )
    arguments = parser.parse_args()
    result = run(FULL if arguments.full else QUICK)
    if arguments.measured:
        capacity.record(
            constants(result),
            f"python -m tests.bench.store_scale{' --full' if arguments.full else ''}",
        )
    for name, found in result.items():
        rows = found if isinstance(found, list) else [found]
        for row in rows:
            figures = row.items() if isinstance(row, dict) else [("", row)]
            texts = (
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
                for key, value in figures
            )
            print(f"{name:12}", *texts)
    target = Settings().var_dir / "bench" / "store_scale.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
