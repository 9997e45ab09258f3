"""The live feed with a simulated clock and store: every second is written, with its value."""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.core.errors import ReadingError, StoreError, StoreUnavailable
from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.feed import BACKFILL_S, CATCH_UP_S, LONGEST_PAUSE_S, REPLAYED, LiveFeed, Replay
from app.demo.rig.measurements import GRADED_COMPONENTS, SENSOR_IDS, open_directory, read_blocks
from app.diagnosis.build import DiagnosisContext, build_diagnosis
from app.diagnosis.input_quality import Thresholds
from app.diagnosis.pipeline import WindowInput
from app.schemas.diagnosed_input import Window
from app.schemas.equipment import Equipment
from app.serving.ingress.traffic import Release
from app.serving.ingress.version_router import RoutedWindow, Scored, VersionRouter
from app.serving.model_server.deployment import ModelServer
from app.serving.observability.metrics import Metrics
from tests.app.serving.conftest import LocalClient
from tests.system import PROJECT_DIR

WriteRig = Callable[..., Path]

START_S = 1_764_000_000
REPLAY = Replay(("PS1", "TS1"), np.arange(5 * 60 * 2, dtype=np.float64).reshape(5, 60, 2))


class End(Exception):
    """The simulated time is over."""


class Time:
    """A clock that advances by sleeping only; `jumps` adds seconds at the end of the n-th sleep."""

    def __init__(self, lasts_s: float, jumps: dict[int, float] | None = None) -> None:
        self.now = float(START_S)
        self.sleeps: list[float] = []
        self._end = START_S + lasts_s
        self._jumps = jumps or {}

    def now_s(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds + self._jumps.get(len(self.sleeps), 0.0)
        self.sleeps.append(seconds)
        if self.now >= self._end:
            raise End


class Store:
    """A store that keeps readings; while `away` it keeps them and raises."""

    def __init__(
        self, away: Callable[[], bool] = lambda: False, *, registered: bool = False
    ) -> None:
        self.readings: dict[tuple[str, int], float] = {}
        self.calls: list[int] = []
        self.put: list[str] = []
        self._away = away
        self._registered = registered

    async def migrate(self) -> None:
        self._check()

    async def get_equipment(self, equipment_id: str, *, deleted: bool) -> Equipment | None:
        self._check()
        return rig_equipment(equipment_id) if self._registered else None

    async def put_equipment(self, equipment: Equipment) -> None:
        self._check()
        self.put.append(equipment.equipment_id)

    async def ingest(
        self,
        equipment_id: str,
        sensor_ids: Sequence[str],
        times_us: NDArray[np.int64],
        values: NDArray[np.float64],
    ) -> None:
        assert equipment_id == "hydraulic-rig"
        lost = self._away()
        for sensor_id, time_us, value in zip(
            sensor_ids, times_us.tolist(), values.tolist(), strict=True
        ):
            assert self.readings.setdefault((sensor_id, time_us), value) == value
        if lost:
            raise StoreUnavailable("the answer was lost")
        self.calls.append(len(values))

    def _check(self) -> None:
        if self._away():
            raise StoreUnavailable("expected the database to answer, found it away: start it")


async def _run(time: Time, store: Store) -> None:
    clock = time.now_s, time.sleep
    feed = LiveFeed(store, rig_equipment(), REPLAY, *clock)  # type: ignore[arg-type]
    with pytest.raises(End):
        await feed.run()


def _expected(first_s: int, last_s: int) -> dict[tuple[str, int], float]:
    values_NS = REPLAY.values_between(first_s, last_s + 1)
    return {
        (sensor_id, second * 1_000_000): values_NS[second - first_s, position]
        for second in range(first_s, last_s + 1)
        for position, sensor_id in enumerate(REPLAY.sensor_ids)
    }


async def test_last_hour_is_written_at_once_then_every_second_when_it_begins() -> None:
    time, store = Time(lasts_s=4), Store()
    await _run(time, store)
    assert store.put == ["hydraulic-rig"]
    assert store.calls == [2 * CATCH_UP_S, 2, 2, 2, 2]
    assert time.sleeps == [1.0, 1.0, 1.0, 1.0]
    assert store.readings == _expected(START_S - BACKFILL_S, START_S + 3)


async def test_seconds_can_be_written_several_at_once() -> None:
    store, clock = Store(), Time(11)
    feed = LiveFeed(
        store,  # type: ignore[arg-type]
        rig_equipment(),
        REPLAY,
        clock.now_s,
        clock.sleep,
        backfill_s=20,
        every_s=5,
    )
    with pytest.raises(End):
        await feed.run()
    seconds = {second // 1_000_000 for _, second in store.readings}
    assert min(seconds) == START_S - 20
    assert len(seconds) == max(seconds) - min(seconds) + 1
    assert len(store.calls) <= 4


async def test_registered_equipment_is_not_changed() -> None:
    store = Store(registered=True)
    await _run(Time(lasts_s=1), store)
    assert store.put == []


async def test_restart_writes_the_same_values_again() -> None:
    store = Store()
    await _run(Time(lasts_s=7), store)
    before = dict(store.readings)
    await _run(Time(lasts_s=3), store)  # the store asserts equal values
    assert store.readings == before


async def test_pause_longer_than_one_call_is_caught_up() -> None:
    store = Store()
    await _run(Time(lasts_s=10_010, jumps={2: 10_000.0}), store)
    assert max(store.calls) == 2 * CATCH_UP_S
    written = sorted({time_us // 1_000_000 for _, time_us in store.readings})
    assert written == list(range(START_S - BACKFILL_S, written[-1] + 1))
    assert written[-1] >= START_S + 10_000


async def test_clock_set_back_repeats_nothing_and_continues() -> None:
    store = Store()
    await _run(Time(lasts_s=5, jumps={1: -3.0}), store)
    assert store.readings == _expected(START_S - BACKFILL_S, START_S + 4)


async def test_outage_is_logged_once_and_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    time = Time(lasts_s=90)
    store = Store(away=lambda: 10 <= time.now - START_S < 70)
    with caplog.at_level(logging.INFO, "app.demo.rig.feed"):
        await _run(time, store)
    assert [record.getMessage() for record in caplog.records] == [
        "feed interrupted, store unavailable",
        "feed resumed",
    ]
    assert vars(caplog.records[0])["reason"] == "the answer was lost"
    assert 60 <= vars(caplog.records[1])["outage_s"] <= 60 + LONGEST_PAUSE_S
    assert max(time.sleeps) == LONGEST_PAUSE_S
    assert store.readings == _expected(START_S - BACKFILL_S, START_S + 89)


async def test_feed_waits_for_an_unavailable_store_at_the_start() -> None:
    time = Time(lasts_s=30)
    store = Store(away=lambda: time.now - START_S < 20)
    await _run(time, store)
    assert store.put == ["hydraulic-rig"]
    # the backfill is relative to the start of the feed, not to the end of the outage
    assert store.readings == _expected(START_S - BACKFILL_S, START_S + 29)


async def test_refusal_is_not_retried() -> None:
    class Refusing(Store):
        async def put_equipment(self, equipment: Equipment) -> None:
            raise StoreError("expected a free disk, found none")

    with pytest.raises(StoreError, match="free disk"):
        await LiveFeed(Refusing(), rig_equipment(), REPLAY).run()  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    away=st.lists(st.booleans(), max_size=40),
    jumps=st.dictionaries(st.integers(0, 20), st.floats(-20.0, 500.0), max_size=4),
    lasts_s=st.integers(1, 400),
)
async def test_every_second_is_written_for_any_clock_and_outages(
    away: list[bool], jumps: dict[int, float], lasts_s: int
) -> None:
    outages: Iterator[bool] = iter(away)
    time, store = Time(lasts_s, jumps), Store(away=lambda: next(outages, False))
    await _run(time, store)
    written = sorted({time_us // 1_000_000 for _, time_us in store.readings})
    assert written or any(away)
    assert store.readings == (_expected(START_S - BACKFILL_S, written[-1]) if written else {})


def _counting(cycles: int) -> Replay:
    # value = 1000 * cycle + second, so that a value identifies its place
    values_CK = 1000.0 * np.arange(cycles)[:, None] + np.arange(60)
    return Replay(("A", "B"), np.stack([values_CK, -values_CK], axis=2))


@given(start_s=st.integers(0, 4 * 10**9), seconds=st.integers(0, 200), cycles=st.integers(1, 7))
def test_every_second_has_the_value_of_its_cycle_for_any_interval(
    start_s: int, seconds: int, cycles: int
) -> None:
    values_NS = _counting(cycles).values_between(start_s, start_s + seconds)
    assert values_NS.shape == (seconds, 2)
    expected = [
        1000.0 * (second // 60 % cycles) + second % 60
        for second in range(start_s, start_s + seconds)
    ]
    assert values_NS[:, 0].tolist() == expected
    assert values_NS[:, 1].tolist() == [-value for value in expected]


def test_load_keeps_every_value_of_stable_cycles_in_the_given_order_of_sensors(
    write_rig: WriteRig,
) -> None:
    files = open_directory(write_rig(cycles=3))
    order = tuple(reversed(SENSOR_IDS))
    replay = Replay.load(files, order)
    (block,) = read_blocks(files, cycles_per_block=3)
    assert block.stable_C.tolist() == [True, False, True]
    assert replay.values_CKS.shape == (2, 60, 17)
    for position, sensor_id in enumerate(order):
        assert np.array_equal(replay.values_CKS[:, :, position], block.values_CR[sensor_id][::2])


def test_data_without_a_stable_cycle_are_not_replayed(write_rig: WriteRig) -> None:
    directory = write_rig(cycles=1)
    (directory / "profile.txt").write_text("3\t100\t0\t130\t1\n")
    with pytest.raises(ReadingError, match=r"expected cycles with a stable flag of 0 in profile"):
        Replay.load(open_directory(directory), SENSOR_IDS)


@pytest.mark.parametrize("version", ["1", "2"])
async def test_shipped_versions_answer_every_replayed_cycle_with_all_conditions(
    version: str,
) -> None:
    rig = rig_equipment()
    replay = Replay.load(open_archive(SHIPPED_ARCHIVE), rig.sensor_ids, REPLAYED)
    assert len(replay.values_CKS) >= 15
    server = ModelServer(PROJECT_DIR / "app" / "weights" / version, "cpu")
    router = VersionRouter(LocalClient({f"model-{version}": server}), Metrics(), timeout_s=300.0)
    release = Release(version=version, application=f"model-{version}", weight=100)
    windows = [
        RoutedWindow(WindowInput(rig, values_KS.T.astype(np.float32)), (release,))
        for values_KS in replay.values_CKS
    ]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for outcome in await router.score(windows):
        assert isinstance(outcome, Scored)
        context = DiagnosisContext("0" * 32, at, Window(at, at), "store", 0.0, False, "")
        made = build_diagnosis(
            rig, context, outcome.scores, outcome.quality, outcome.decoder, Thresholds(), {}
        )
        found = {each.component_id for each in made.components if each.condition is not None}
        assert (made.status, found) == ("ok", set(GRADED_COMPONENTS))


def test_faster_data_than_a_second_are_not_replayed(write_rig: WriteRig) -> None:
    files = open_directory(write_rig(cycles=1, rates_hz={"FS1": 10}))
    with pytest.raises(
        ReadingError, match=r"expected 60 columns to replay, found FS1\.txt with 600"
    ):
        Replay.load(files, SENSOR_IDS)
