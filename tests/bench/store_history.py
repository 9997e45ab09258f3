"""Databases of machines with a history, filled by SQL on the server, for `store_scale`.

Two of them differ in their `Sizes` only. The docstring of `store_scale` says what is simulated.
"""

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import numpy as np

from app.schemas.diagnosed_input import InputQuality, Window
from app.schemas.diagnosis import ComponentDiagnosis, Diagnosis
from app.store.pool import PoolLimits
from app.store.readings import Readings
from app.store.store import Store
from tests.machines import make_machine

SENSORS = tuple(f"S{index}" for index in range(20))
END = datetime(2026, 11, 20, 12, tzinfo=UTC)
END_S = int(END.timestamp())
HOUR_S = 3600
DENSE = 10
"""Number of machines with a reading in every second of the last hour."""

REGISTER = """
insert into equipment (equipment_id, topology, revision, grid_us)
select 'm-' || lpad(n::text, 5, '0'), $1::jsonb, '', 1000000
from generate_series(0, $2::integer - 1) n
"""
REGISTER_SENSORS = """
insert into equipment_sensors (equipment_key, slot, sensor_id)
select equipment_key, slot, 'S' || slot from equipment, generate_series(0, 19) slot
"""
TICKS = """
from generate_series(
    to_timestamp($1::float8), to_timestamp($2::float8), make_interval(secs => $3::float8)
) as time
cross join (select equipment_key from equipment order by equipment_key limit $4) writing
"""
LIVE = "on conflict do nothing"
HISTORY = "order by equipment_key, time"
"""Machine by machine, which fills the index faster; windows of earlier months are not read."""
FILL_GRID = """
insert into sensor_grid (time, equipment_key, vals)
select time, equipment_key, array_fill(100::real, array[20])"""
FILL_READINGS = """
insert into sensor_readings (time, equipment_key, slot, value)
select time, equipment_key, 0, 100"""
FILL_DIAGNOSES = """
insert into diagnoses
select
    md5(equipment_id || to_timestamp($1::float8)), to_timestamp($1::float8), equipment_id,
    to_timestamp($1::float8), to_timestamp($1::float8), '1', 'ok', 0.5, $2::json
from equipment
"""


@dataclass(frozen=True)
class Sizes:
    """How much is written and measured.

    Args:
        machines: registered machines, with 20 sensors each.
        live: number of machines with readings in the last hour.
        months: full months before the current one.
        history_ticks: ticks of each machine in each of those months.
        live_step_s: seconds between ticks of the last hour; the last two minutes have all ticks.
        diagnoses: stored diagnoses of each machine in each month.
        rounds: of each measurement.
        load_s: seconds of each round of ingest under reads.
    """

    machines: int
    live: int
    months: int
    history_ticks: int
    live_step_s: float
    diagnoses: int
    rounds: int
    load_s: float


SMALL = Sizes(10, 10, 0, 0, 1.0, 1, 0, 0.0)
QUICK = Sizes(10_000, 2_000, 12, 2, 120.0, 0, 8, 1.5)
FULL = Sizes(10_000, 10_000, 12, 50, 20.0, 1, 20, 4.0)


class HistoryDatabase:
    """A filled database, with a store of one connection to measure the CPU of its server process.

    Args:
        name: of the database.
        dsn: of the server's first database.
        sizes: how much is written.
    """

    def __init__(self, name: str, dsn: str, sizes: Sizes) -> None:
        self.name = name
        self.sizes = sizes
        self.dsn = dsn.replace("/postgres?", f"/{name}?")
        self.store = Store(self.dsn, PoolLimits(max_size=1))
        self._random = random.Random(7)
        self._numbers = np.random.default_rng(7)
        self._next_s = END_S
        self._pid = 0

    async def open(self) -> None:
        """Migrate, register and fill."""
        self.session = await asyncpg.connect(self.dsn)
        await self.store.migrate()
        await self._fill()

    async def find_server_process(self) -> None:
        """Find the store's server process.

        The pool closes connections that are idle for five minutes, so call it before measuring.
        """
        await self.store.ping()
        rows = await self.session.fetch(
            "select pid from pg_stat_activity where datname = current_database() "
            "and pid <> pg_backend_pid() and backend_type = 'client backend'"
        )
        ((self._pid,),) = rows

    async def close(self) -> None:
        """Close what was opened."""
        await self.store.close()
        await self.session.close()

    def server_cpu_ms(self) -> float:
        """Return the CPU time of the store's server process."""
        return int(Path(f"/proc/{self._pid}/schedstat").read_text().split()[0]) / 1e6

    def sample(self, count: int) -> list[str]:
        """Return ids of live machines, drawn with replacement."""
        return [f"m-{self._random.randrange(self.sizes.live):05d}" for _ in range(count)]

    def sample_distinct(self, count: int, writer: int, writers: int) -> list[str]:
        """Return ids of different live machines, out of those of one of several writers."""
        share = range(writer, self.sizes.live, writers)
        return [f"m-{number:05d}" for number in self._random.sample(share, count)]

    async def read(self, windows: int) -> None:
        """Read 60-second windows in one statement, within the last two minutes."""
        first = END_S - 60 - self._random.randrange(50)
        found = await self.store.read_windows([(name, first, 60) for name in self.sample(windows)])
        assert all(window.count == 60 for window in found)

    async def read_hour(self) -> None:
        """Read a window of an hour at 1 Hz: 72,000 values."""
        name = f"m-{self._random.randrange(DENSE):05d}"
        (window,) = await self.store.read_windows([(name, END_S - HOUR_S, HOUR_S)])
        assert window.count == HOUR_S

    def ticks(self, names: Sequence[str], ticks: int) -> list[Readings]:
        """Return readings of all sensors of some machines for the next seconds."""
        start_s, self._next_s = self._next_s, self._next_s + ticks
        times_us = np.repeat((start_s + np.arange(ticks)) * 1_000_000, len(SENSORS))
        return [
            Readings(name, SENSORS * ticks, times_us, self._numbers.normal(100, 9, len(times_us)))
            for name in names
        ]

    async def _fill(self) -> None:
        sizes, session = self.sizes, self.session
        topology = make_machine("m", SENSORS).model_dump_json()
        await session.execute(REGISTER, topology, sizes.machines)
        await session.execute(REGISTER_SENSORS)
        months = [
            datetime(2025 + (10 + month) // 12, 1 + (10 + month) % 12, 1, tzinfo=UTC)
            for month in range(13)
        ]
        await session.execute("select prepare_months($1)", months[-sizes.months - 1 :])
        for month in months[len(months) - 1 - sizes.months : -1]:
            step_s = 28 * 86_400 / sizes.history_ticks
            await self._tick(
                month.timestamp(),
                month.timestamp() + 27.9 * 86_400,
                step_s,
                sizes.machines,
                HISTORY,
            )
        # minute by minute, in the order in which live machines write
        for minute in range(58):
            start_s = END_S - HOUR_S + 60 * minute
            await self._tick(start_s, start_s + 59, sizes.live_step_s, sizes.live)
            await self._tick(start_s, start_s + 59, 1.0, DENSE)
        await self._tick(END_S - 120, END_S - 1, 1.0, sizes.live)
        for month in months[-sizes.months - 1 :]:
            for number in range(sizes.diagnoses):
                await session.execute(
                    FILL_DIAGNOSES,
                    month.timestamp() + number * 60,
                    diagnosis("m").to_json().decode(),
                )
        # what autovacuum does within minutes of live ingest
        await session.execute("vacuum analyze")

    async def _tick(
        self, first_s: float, last_s: float, step_s: float, machines: int, suffix: str = LIVE
    ) -> None:
        for fill in (FILL_GRID, FILL_READINGS):
            await self.session.execute(fill + TICKS + suffix, first_s, last_s, step_s, machines)


def diagnosis(equipment_id: str, components: int = 10) -> Diagnosis:
    """Return a diagnosis with random numbers, about 3.7 KB of JSON."""

    def number() -> float:
        return round(random.random(), 6)

    found = tuple(
        ComponentDiagnosis(
            component_id=f"component-{index}",
            health=number(),
            interval=(number(), number()),
            state="watch",
            basis="labels",
            condition="100",
            confidence=number(),
            degradation_rate=None,
            degradation_reason="expected diagnoses over at least an hour, found 1: ask again later",
            rul_h=None,
            rul_interval_h=None,
            rul_reason="expected a degradation rate, found none",
        )
        for index in range(components)
    )
    return Diagnosis(
        diagnosis_id=uuid.uuid4().hex,
        equipment_id=equipment_id,
        created_at=END,
        window=Window(start=END - timedelta(seconds=60), end=END),
        model_version="1",
        topology_revision="0" * 64,
        fallback=False,
        status="ok",
        reasons=(),
        health=number(),
        components=found,
        input=InputQuality(
            source="store",
            missing_sensors=(),
            faulty_sensors=(),
            unusual_sensors=(),
            coverage=1.0,
            stale_s=number(),
        ),
    )
