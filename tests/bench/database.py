"""The database that all systems under test read: machines of the rig's design with its cycles.

It is filled once and kept under `var/bench`; a later run with the same sizes and schema reuses it.
Rows are written as live machines write them: in the order of time, all machines in turn. Each cycle
ends at a whole minute and is bitwise one of the shipped cycles.
"""

import asyncio
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import numpy as np

from app.core.settings import PROJECT_DIR
from app.demo.rig.equipment import rig_equipment
from app.schemas.equipment import Component, Connection, Equipment, Sensor
from app.store.store import Store
from tests.rig import rig_block

MIGRATIONS = PROJECT_DIR / "app" / "store" / "migrations"
START = datetime(2026, 3, 2, tzinfo=UTC)
BINS = 60
SYNTHETIC_DESIGN = "bench-plant"

CYCLES = """
create table bench_cycles (
    cycle integer, second integer, vals real[], primary key (cycle, second)
)
"""
GRID = """
insert into sensor_grid (equipment_key, time, vals)
select item.equipment_key, $1::timestamptz + cycle.second * interval '1 second', cycle.vals
from unnest($2::integer[], $3::integer[]) as item (equipment_key, cycle)
join bench_cycles cycle on cycle.cycle = item.cycle
order by cycle.second, item.equipment_key
"""
READINGS = """
insert into sensor_readings (equipment_key, time, slot, value)
select
    item.equipment_key, $1::timestamptz + cycle.second * interval '1 second', reading.slot - 1,
    reading.value
from unnest($2::integer[], $3::integer[]) as item (equipment_key, cycle)
join bench_cycles cycle on cycle.cycle = item.cycle
cross join lateral unnest(cycle.vals) with ordinality as reading (value, slot)
where $4 or (reading.slot = 1 and cycle.second = 59)
order by cycle.second, item.equipment_key, reading.slot
"""


@dataclass(frozen=True)
class Fleet:
    """Machines in one database of the server.

    Args:
        database: name.
        machines: number of machines of the rig's design, `rig-00000` and on.
        cycles: of each machine.
        synthetic: component counts of further machines of one untrained design.
        has_all_readings: whether all readings are written beside the grid, or only one of each
            cycle, which takes less time and space.
    """

    database: str
    machines: int
    cycles: int
    synthetic: tuple[int, ...] = ()
    has_all_readings: bool = True

    @property
    def machine_ids(self) -> list[str]:
        """Ids of the machines of the rig's design."""
        return [f"rig-{number:05d}" for number in range(self.machines)]

    def cycle_ends(self) -> list[datetime]:
        """Ends of all cycles."""
        return [START + timedelta(minutes=number + 1) for number in range(self.cycles)]

    def pairs(self, seed: int) -> list[tuple[str, datetime]]:
        """Return every (machine, end of a cycle) once, shuffled."""
        found = [(machine, end) for machine in self.machine_ids for end in self.cycle_ends()]
        random.Random(seed).shuffle(found)
        return found

    def pairs_of_plant(self, components: int, seed: int) -> list[tuple[str, datetime]]:
        """Return a synthetic machine with every possible end of a window, in seconds, shuffled."""
        seconds = range(BINS, BINS * self.cycles + 1)
        found = [(f"plant-{components}", START + timedelta(seconds=second)) for second in seconds]
        random.Random(seed).shuffle(found)
        return found


def plant(components: int, sensors_each: int = 2) -> Equipment:
    """Return a machine of an untrained design: a ring of this many components."""
    return Equipment(
        equipment_id=f"plant-{components}",
        design=SYNTHETIC_DESIGN,
        grid_s=1,
        window_s=BINS,
        steps=12,
        components=tuple(
            Component(
                component_id=f"c{number}",
                type=("pump", "valve", "cylinder", "filter")[number % 4],
                sensors=tuple(
                    Sensor(
                        sensor_id=f"s{number}-{index}",
                        quantity="pressure",
                        unit="bar",
                        range=(0, 300),
                    )
                    for index in range(sensors_each)
                ),
            )
            for number in range(components)
        ),
        connections=tuple(
            Connection(
                source=f"c{number}", target=f"c{(number + 1) % components}", medium="pressure_line"
            )
            for number in range(components)
        ),
    )


def dsn_of(server_dsn: str, database: str) -> str:
    """Return the DSN of a database of the same server."""
    return server_dsn.replace("/postgres?", f"/{database}?")


def prepare(server_dsn: str, fleet: Fleet) -> str:
    """Create and fill a fleet's database unless it exists, and return its DSN."""
    return asyncio.run(_prepare(server_dsn, fleet))


async def _prepare(server_dsn: str, fleet: Fleet) -> str:
    dsn = dsn_of(server_dsn, fleet.database)
    admin = await asyncpg.connect(server_dsn)
    try:
        schema = hashlib.sha256(
            b"".join(path.read_bytes() for path in sorted(MIGRATIONS.glob("*.sql")))
        ).hexdigest()
        description = json.dumps([schema, *astuple(fleet)])
        found = await admin.fetchval(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = $1",
            fleet.database,
        )
        if found == description:
            return dsn
        await admin.execute(f"drop database if exists {fleet.database} with (force)")
        await admin.execute(f"create database {fleet.database}")
        await _fill(dsn, fleet)
        await admin.execute(f"comment on database {fleet.database} is '{description}'")
    finally:
        await admin.close()
    return dsn


async def _fill(dsn: str, fleet: Fleet) -> None:
    store = Store(dsn)
    await store.migrate()
    rig = rig_equipment()
    session = await asyncpg.connect(dsn)
    try:
        await session.execute(CYCLES)
        block = rig_block()
        cycles_CRS = np.stack([block.values_CR[sensor_id] for sensor_id in rig.sensor_ids], axis=-1)
        await session.copy_records_to_table(
            "bench_cycles",
            records=[
                (cycle, second, cycles_CRS[cycle, second].tolist())
                for cycle in range(len(cycles_CRS))
                for second in range(BINS)
            ],
        )
        await session.execute("select prepare_months($1)", [START])
        keys = [
            await _register(session, rig.model_copy(update={"equipment_id": machine}))
            for machine in fleet.machine_ids
        ]
        for minute in range(fleet.cycles):
            # machines start at different cycles, so neighbours differ
            cycles = [(37 * number + minute) % len(cycles_CRS) for number in range(fleet.machines)]
            start = START + timedelta(minutes=minute)
            await session.execute(GRID, start, keys, cycles)
            await session.execute(READINGS, start, keys, cycles, fleet.has_all_readings)
        for components in fleet.synthetic:
            await _fill_plant(store, plant(components), fleet.cycles)
        await session.execute("drop table bench_cycles")
        await session.execute("vacuum analyze")
    finally:
        await session.close()
        await store.close()


async def _register(session: "asyncpg.Connection[asyncpg.Record]", item: Equipment) -> int:
    """Register a machine as the store does, but without its locks, which is faster."""
    key: int = await session.fetchval(
        "insert into equipment (equipment_id, topology, revision, grid_us) "
        "values ($1, $2::jsonb, $3, $4) returning equipment_key",
        item.equipment_id,
        item.model_dump_json(),
        item.revision,
        item.grid_us,
    )
    await session.execute(
        "insert into equipment_sensors (equipment_key, slot, sensor_id) "
        "select $1, place - 1, sensor_id "
        "from unnest($2::text[]) with ordinality as sensor (sensor_id, place)",
        key,
        list(item.sensor_ids),
    )
    return key


async def _fill_plant(store: Store, item: Equipment, cycles: int) -> None:
    await store.put_equipment(item)
    random_numbers = np.random.default_rng(len(item.components))
    start_us = int(START.timestamp()) * 1_000_000
    for minute in range(cycles):
        times_us = start_us + 1_000_000 * (60 * minute + np.arange(BINS))
        await store.ingest(
            item.equipment_id,
            list(item.sensor_ids) * BINS,
            np.repeat(times_us, len(item.sensors)),
            random_numbers.normal(150, 20, BINS * len(item.sensors)),
        )


def write_bodies(
    path: Path, pairs: Sequence[tuple[str, datetime]], *, as_list: bool = False
) -> Path:
    """Write request bodies for a load, one a line: an object, or a list of one object."""
    lines = []
    for equipment_id, at in pairs:
        item = {"equipment_id": equipment_id, "at": at.isoformat().replace("+00:00", "Z")}
        lines.append(json.dumps([item] if as_list else item))
    path.write_text("\n".join(lines) + "\n")
    return path
