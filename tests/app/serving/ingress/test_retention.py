"""Retention: partitions older than the limit are dropped."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.schemas.equipment import Equipment
from app.serving.ingress.retention import Retention
from app.store.pool import PoolLimits
from app.store.store import Store

NOW = datetime(2026, 6, 15, tzinfo=UTC)


async def written(store: Store, machine: Equipment, *months: int) -> None:
    await store.put_equipment(machine)
    times = [
        round(datetime(2026, month, 10, tzinfo=UTC).timestamp() * 1_000_000) for month in months
    ]
    await store.ingest(
        machine.equipment_id, [machine.sensor_ids[0]] * len(times), times, [1.0] * len(times)
    )


async def first_month(store: Store, machine: Equipment) -> int:
    found = await store.data_range(machine.equipment_id)
    assert found is not None
    return datetime.fromtimestamp(found.first * machine.grid_us / 1e6, UTC).month


async def test_only_whole_months_beyond_the_retention_are_dropped(store: Store, machine: Equipment):
    await written(store, machine, 1, 2, 3, 6)
    retention = Retention(store, lambda: NOW)
    retention.start()
    await asyncio.sleep(0.1)
    assert await first_month(store, machine) == 1
    retention.set_days(90)  # until 17 March: January and February are wholly older
    async with asyncio.timeout(10):
        while await first_month(store, machine) != 3:
            await asyncio.sleep(0.05)
    await retention.close()
    assert await first_month(store, machine) == 3


async def test_unexpected_error_ends_one_round_and_not_the_task(monkeypatch: pytest.MonkeyPatch):
    away = Store("postgresql://nobody@/nothing", PoolLimits())
    cutoffs: list[datetime] = []

    async def drop(cutoff: datetime) -> int:
        cutoffs.append(cutoff)
        raise OverflowError("date value out of range")

    monkeypatch.setattr(away, "drop_before", drop)
    retention = Retention(away, lambda: NOW)
    retention.start()
    for days in (90, 60):
        retention.set_days(days)
        async with asyncio.timeout(30.0):
            while NOW - timedelta(days=days) not in cutoffs:
                await asyncio.sleep(0.01)
    await retention.close()
    assert cutoffs == [NOW - timedelta(days=90), NOW - timedelta(days=60)]
