"""Readings that were accepted while the database was away are stored once, in order, after it."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from app.core.errors import StoreError, StoreUnavailable, UnknownEquipment
from app.serving.ingress import spool as module
from app.serving.ingress.spool import Spool
from app.serving.observability.metrics import Metrics
from app.store.readings import Readings

LIMIT_S = 60.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "ADOPT_S", 0.02)


def block(number: int, equipment_id: str = "press") -> Readings:
    return Readings(
        equipment_id,
        ["p", "t", "p"],
        np.arange(3) + 1_000_000 * number,
        np.array([0.1, -1e-30, 3.4e38]) + number,
    )


class FakeStore:
    """Takes readings while it is not away; refuses those of equipment `gone`."""

    def __init__(self) -> None:
        self.away = True
        self.refuses = False
        self.taken: list[tuple[Sequence[Readings], str | None]] = []
        self.tried = 0

    async def __call__(self, blocks: Sequence[Readings], replaced_by: str | None) -> None:
        self.tried += 1
        if self.away:
            raise StoreUnavailable("away")
        if self.refuses:
            raise StoreError("expected a password that the database accepts")
        if blocks[0].equipment_id == "gone":
            raise UnknownEquipment("gone")
        self.taken.append((blocks, replaced_by))

    @property
    def numbers(self) -> list[int]:
        firsts = [np.asarray(blocks[0].times_us)[0] for blocks, _ in self.taken]
        return [int(each) // 1_000_000 for each in firsts]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
async def spools(tmp_path: Path, store: FakeStore) -> AsyncIterator[Callable[..., Spool]]:
    made: list[Spool] = []

    def make(**limits: int) -> Spool:
        made.append(Spool(tmp_path / "spool", store, Metrics(), **limits))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.005)


async def test_records_are_stored_in_order_and_exactly_as_given(
    spools: Callable[..., Spool], store: FakeStore, tmp_path: Path
):
    spool = spools()
    for number in range(5):
        await spool.put([block(number), block(number, "mill")], "admin" if number == 2 else None)
    await until(lambda: store.tried > 3)
    assert spool.is_waiting
    assert store.taken == []
    store.away = False
    await until(lambda: not spool.is_waiting)
    assert store.numbers == [0, 1, 2, 3, 4]
    assert [name for _, name in store.taken] == [None, None, "admin", None, None]
    (first, second), _ = store.taken[3]
    assert (first.equipment_id, second.equipment_id) == ("press", "mill")
    assert list(first.sensor_ids) == ["p", "t", "p"]
    np.testing.assert_array_equal(first.times_us, block(3).times_us)
    np.testing.assert_array_equal(first.values, block(3).values)
    assert not list((tmp_path / "spool").glob("*/records"))


async def test_records_that_arrive_while_others_are_stored_come_after_them(
    spools: Callable[..., Spool], store: FakeStore
):
    spool = spools()
    await spool.put([block(0)], None)
    store.away = False
    number = 1
    while spool.is_waiting:
        await spool.put([block(number)], None)
        number += 1
        if number > 20:
            break
    await until(lambda: not spool.is_waiting)
    assert store.numbers == list(range(number))


async def test_replica_that_was_killed_leaves_its_records_to_the_next(
    spools: Callable[..., Spool], store: FakeStore, tmp_path: Path
):
    text = (
        "import asyncio, sys, time\n"
        "from pathlib import Path\n"
        "from app.serving.ingress.spool import Spool\n"
        "from app.serving.observability.metrics import Metrics\n"
        "from tests.app.serving.ingress.test_spool import block\n"
        "async def main():\n"
        "    spool = Spool(Path(sys.argv[1]), None, Metrics())\n"
        "    for number in range(1000):\n"
        "        await spool.put([block(number)], None)\n"
        "        print(number, flush=True)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", text, str(tmp_path / "spool")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        answered = [int(writer.stdout.readline()) for _ in range(5)]
        os.kill(writer.pid, signal.SIGKILL)
        answered += map(int, writer.stdout)
    store.away = False
    spools()
    await until(lambda: len(store.numbers) >= len(answered))
    await until(lambda: not list((tmp_path / "spool").glob("*/records")))
    # one more may have been on the disk before its answer went out
    assert store.numbers[: len(answered)] == answered
    assert len(store.numbers) <= len(answered) + 1


@pytest.mark.parametrize("cut", [1, 5, 20])
async def test_record_that_was_cut_off_is_left_out(
    spools: Callable[..., Spool], store: FakeStore, tmp_path: Path, cut: int
):
    first = Spool(tmp_path / "spool", store, Metrics())
    for number in range(3):
        await first.put([block(number)], None)
    await first.close()
    (path,) = (tmp_path / "spool").glob("*/records")
    os.truncate(path, path.stat().st_size - cut)
    store.away = False
    spools()
    await until(lambda: not path.exists())
    assert store.numbers == [0, 1]


async def test_running_replica_keeps_its_records_to_itself(
    spools: Callable[..., Spool], store: FakeStore, tmp_path: Path
):
    first = Spool(tmp_path / "spool", store, Metrics())
    await first.put([block(0)], None)
    store.away = False
    other = spools()
    await other.put([block(1)], None)
    await until(lambda: not other.is_waiting)
    assert store.numbers == [1]
    await first.close()
    await until(lambda: store.numbers == [1, 0])


async def test_full_spool_refuses_and_keeps_what_it_has(
    spools: Callable[..., Spool], store: FakeStore
):
    spool = spools(max_bytes=600)
    await spool.put([block(0)], None)
    large = [block(number) for number in range(1, 20)]
    with pytest.raises(StoreUnavailable, match="expected at most 600 bytes of readings to wait"):
        await spool.put(large, None)
    store.away = False
    await until(lambda: not spool.is_waiting)
    assert store.numbers == [0]
    await spool.put([block(100)], None)
    await until(lambda: store.numbers[-1] == 100)


async def test_record_that_the_store_refuses_is_kept_apart_and_the_others_go_on(
    spools: Callable[..., Spool], store: FakeStore, tmp_path: Path
):
    spool = spools()
    await spool.put([block(0)], None)
    await spool.put([block(1, "gone")], None)
    await spool.put([block(2)], None)
    store.away = False
    await until(lambda: not spool.is_waiting)
    assert store.numbers == [0, 2]
    kept, _ = module._record_at(tmp_path / "spool" / "refused", 0) or (b"", 0)
    assert b'"gone"' in kept


async def test_database_that_refuses_everything_keeps_the_records_waiting(
    spools: Callable[..., Spool], store: FakeStore, tmp_path: Path
):
    store.away, store.refuses = False, True
    spool = spools()
    await spool.put([block(0)], None)
    await until(lambda: store.tried > 3)
    assert spool.is_waiting
    store.refuses = False
    await until(lambda: not spool.is_waiting)
    assert store.numbers == [0]
    assert not (tmp_path / "spool" / "refused").exists()


async def test_what_a_replica_left_is_in_the_gauge_and_goes_before_later_readings(
    store: FakeStore, tmp_path: Path
):
    first = Spool(tmp_path / "spool", store, Metrics())
    await first.put([block(0)], None)
    await first.close()
    metrics = Metrics()
    spool = Spool(tmp_path / "spool", store, metrics)
    spool.start()
    await until(lambda: store.tried > 1)
    assert spool.is_waiting
    size = next((tmp_path / "spool").glob("*/records")).stat().st_size
    assert "hydraulic_spool_bytes{" in metrics.exposition().decode()
    assert metrics.spool_bytes._value.get() == size
    store.away = False
    await until(lambda: not spool.is_waiting)
    metrics.exposition()
    assert metrics.spool_bytes._value.get() == 0
    await spool.close()


async def test_directory_that_is_gone_does_not_hold_up_the_others(
    spools: Callable[..., Spool], store: FakeStore, tmp_path: Path
):
    first = Spool(tmp_path / "spool", store, Metrics())
    await first.put([block(0)], None)
    await first.close()
    spool = spools()
    await spool.put([block(1)], None)
    await until(lambda: bool(spool._adopted))
    shutil.rmtree(spool._adopted[0][0])
    store.away = False
    await until(lambda: not spool.is_waiting)
    # the record of the other may have been read before
    assert store.numbers in ([1], [0, 1])
