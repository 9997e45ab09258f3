"""The section `store_read`: latency of reading a window.

One machine with 20 sensors at 1 Hz is read over 60 minutes (72,000 values) in two ways: rows of the
readings pivoted by pandas, and the grid's bytes decoded by numpy, beside 10 and beside 1,000 other
machines. Rows are written as live machines write them: in the order of time, all machines in turn.
Both ways are checked to give the same numbers.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import numpy as np
import pandas as pd

from app.schemas.equipment import Equipment
from app.store.embedded.server import ensure_embedded, release_embedded
from app.store.store import Store
from app.store.windows import Floats, decode_window
from tests.bench.compare import Bench
from tests.machines import make_machine

SENSORS = 20
OTHERS = (10, 1000)
MINUTES = 60
SECONDS = 60 * MINUTES
T0_S = 1_700_000_000 // 60 * 60

NAIVE = """
select reading.time, sensor.sensor_id, reading.value
from sensor_readings reading
join equipment_sensors sensor using (equipment_key, slot)
join equipment using (equipment_key)
where equipment.equipment_id = $1
    and reading.time >= to_timestamp($2) and reading.time < to_timestamp($3)
"""
FILL_GRID = """
insert into sensor_grid (equipment_key, time, vals)
select equipment_key, time, array_fill(100::real, array[$3::integer])
from generate_series(to_timestamp($1), to_timestamp($1 + 59), interval '1 second') as time
cross join (
    select equipment_key from equipment where equipment_id like 'other-%' order by 1 limit $2
) other
"""
FILL_READINGS = """
insert into sensor_readings (equipment_key, time, slot, value)
select equipment_key, time, 0, 100
from generate_series(to_timestamp($1), to_timestamp($1 + 59), interval '1 second') as time
cross join (
    select equipment_key from equipment where equipment_id like 'other-%' order by 1 limit $2
) other
"""


def machine(equipment_id: str) -> Equipment:
    """Return a machine with 20 sensors and a grid of one second."""
    return make_machine(equipment_id, tuple(f"S{index}" for index in range(SENSORS)))


async def fill(store: Store, session: "asyncpg.Connection[asyncpg.Record]", others: int) -> None:
    """Write an hour of the machine and of the others, minute by minute."""
    measured = machine("measured")
    await store.put_equipment(measured)
    topology = machine("other").model_dump_json()
    await session.execute(
        "insert into equipment (equipment_id, topology, revision, grid_us) "
        "select 'other-' || n, $1::jsonb, '', 1000000 from generate_series(1, $2::integer) n",
        topology,
        others,
    )
    rng = np.random.default_rng(others)
    for minute in range(MINUTES):
        start_s = T0_S + 60 * minute
        times_us = np.repeat((start_s + np.arange(60)) * 1_000_000, SENSORS)
        values = rng.normal(100, 10, 60 * SENSORS)
        await store.ingest("measured", measured.sensor_ids * 60, times_us, values)
        await session.execute(FILL_GRID, start_s, others, SENSORS)
        await session.execute(FILL_READINGS, start_s, others)
    # autovacuum does this within minutes of live ingest
    await session.execute("vacuum analyze")


async def read_naively(session: "asyncpg.Connection[asyncpg.Record]") -> Floats:
    """Read rows and pivot them with pandas."""
    rows = await session.fetch(NAIVE, "measured", T0_S, T0_S + SECONDS)
    frame = pd.DataFrame([tuple(row) for row in rows], columns=["time", "sensor_id", "value"])
    wide = frame.pivot(index="time", columns="sensor_id", values="value")
    return wide[[f"S{index}" for index in range(SENSORS)]].to_numpy(np.float32).T


async def read_grid(store: Store, seconds: int = SECONDS) -> Floats:
    """Read grid bytes and decode them, as the service does."""
    (window,) = await store.read_windows([("measured", T0_S, seconds)])
    return decode_window(window, machine("measured"))


Read = Callable[[], Awaitable[object]]


async def medians_ms(reads: dict[str, tuple[Read, int]], rounds: int) -> dict[str, float]:
    """Return the median time of each read; the reads take turns, so that load affects all of them.

    Args:
        reads: functions by name, with the number of calls in a round.
        rounds: measured rounds, after one round of warm-up.
    """
    took: dict[str, list[float]] = {name: [] for name in reads}
    for turn in range(rounds + 1):
        for name, (read, times) in reads.items():
            for _ in range(times):
                began = time.perf_counter()
                await read()
                if turn:
                    took[name].append(time.perf_counter() - began)
    return {name: float(np.median(times)) * 1000 for name, times in took.items()}


async def measure(dsn: str, others: int, rounds: int) -> dict[str, float]:
    """Fill an empty database and measure both ways in turn."""
    name = f"bench_{others}"
    admin = await asyncpg.connect(dsn)
    await admin.execute(f"create database {name}")
    store = Store(dsn.replace("/postgres?", f"/{name}?"))
    session = await asyncpg.connect(dsn.replace("/postgres?", f"/{name}?"))
    await store.migrate()
    began = time.perf_counter()
    await fill(store, session, others)
    filled_s = time.perf_counter() - began
    np.testing.assert_array_equal(await read_naively(session), await read_grid(store))
    result = await medians_ms(
        {
            "naive_ms": (lambda: read_naively(session), 1),
            "grid_ms": (lambda: read_grid(store), 10),
            "minute_ms": (lambda: read_grid(store, 60), 10),
        },
        rounds,
    )
    await session.close()
    await store.close()
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()
    return result | {
        "others": others,
        "ratio": result["naive_ms"] / result["grid_ms"],
        "fill_s": filled_s,
    }


async def run(directory: Path, others: list[int], rounds: int) -> dict[str, object]:
    """Measure beside each number of other machines, on a new server."""
    dsn = ensure_embedded(directory / "postgres", grace_s=0.0)
    runs = [await measure(dsn, count, rounds) for count in others]
    return {
        "values": SENSORS * SECONDS,
        "runs": runs,
        "growth": runs[-1]["grid_ms"] / runs[0]["grid_ms"],
    }


def measure_read(bench: Bench) -> dict[str, object]:
    """Run the section beside 10 and beside 1,000 other machines, on a temporary server."""
    with tempfile.TemporaryDirectory(
        prefix="hydraulic-bench-", ignore_cleanup_errors=True
    ) as parent:
        result = asyncio.run(run(Path(parent), list(OTHERS), max(3, round(bench.seconds))))
        release_embedded(Path(parent) / "postgres")
        time.sleep(1.0)
    return result
