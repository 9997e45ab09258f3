"""Promotions: steps of weight, and rollback when a guard breaks."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import ReleaseConflict, ReleaseError, UnknownVersion
from app.release import operations, promotion
from app.release.clients.serve_api import ServeApi
from app.release.config.edits import Placement
from app.release.config.file import ConfigFile
from app.release.guards import Measurement, parse_guards
from app.release.promotion import GuardBroken, Promotion, promote
from tests.app.release.fake_cluster import FakeCluster, MemoryHistory, releases_on

GUARDS = parse_guards("errors<1%")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "POLL_S", 0.01)


class FixedMeter:
    """A meter with given measurements for each step."""

    def __init__(self, *of_step: Measurement | ReleaseError) -> None:
        self.of_step = of_step
        self.step = -1

    async def begin(self, version: str) -> None:
        self.step += 1

    async def measure(self) -> Mapping[str, Measurement]:
        found = self.of_step[min(self.step, len(self.of_step) - 1)]
        if isinstance(found, ReleaseError):
            raise found
        return {"errors": found}


GOOD, BAD = Measurement(0.0, 50), Measurement(0.5, 50)


async def test_steps_are_walked_to_the_end(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    await promote(
        releases,
        Promotion("2", (10, 50, 100), 0.03, GUARDS),
        FixedMeter(GOOD),
        lines.append,
    )
    assert cluster.weights == {"1": 0, "2": 100}
    assert [(event.action, event.weights["2"]) for event in history.events] == [
        ("found", 0),
        ("step", 10),
        ("step", 50),
        ("promote", 100),
    ]
    await releases.rollback()
    assert cluster.weights == {"1": 100, "2": 0}


async def test_broken_guard_rolls_back_to_before_the_first_step_and_is_named(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    with pytest.raises(
        GuardBroken, match=r"rolled back at weight 50: errors<1%, found 0.5 in 50 calls"
    ):
        await promote(
            releases,
            Promotion("2", (10, 50, 100), 0.03, GUARDS),
            FixedMeter(GOOD, BAD),
            lines.append,
        )
    assert cluster.weights == {"1": 100, "2": 0}
    assert history.events[-1].action == "rollback"
    assert "errors<1%" in history.events[-1].reason


async def test_undecided_guard_fails_the_promotion(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(ServeApi, "outage_s", 0.05)
    releases = releases_on(cluster, path, history, lines)
    with pytest.raises(GuardBroken, match="can't be decided, only 3 calls"):
        await promote(
            releases,
            Promotion("2", (10,), 0.03, GUARDS),
            FixedMeter(Measurement(None, 3)),
            lines.append,
        )
    with pytest.raises(GuardBroken, match="nothing could be measured"):
        await promote(
            releases,
            Promotion("2", (10,), 5.0, GUARDS),
            FixedMeter(ReleaseError("gone")),
            lines.append,
        )
    assert cluster.weights == {"1": 100, "2": 0}


async def test_weights_of_another_command_stay(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)

    class OtherCommand(FixedMeter):
        async def measure(self) -> Mapping[str, Measurement]:
            await releases.split({"1": 75, "2": 25})
            return {"errors": GOOD}

    with pytest.raises(ReleaseConflict, match="somebody changed them, and they stay"):
        await promote(
            releases, Promotion("2", (10, 50), 5.0, GUARDS), OtherCommand(GOOD), lines.append
        )
    assert cluster.weights == {"1": 75, "2": 25}


async def test_versions_without_weight_may_come_and_go_meanwhile(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    await releases.deploy(Placement("3", "app/weights/2"))

    class Busy(FixedMeter):
        async def begin(self, version: str) -> None:
            await super().begin(version)
            if self.step == 0:
                await releases.deploy(Placement("4", "app/weights/2"))
                await releases.retire("3")

    await promote(releases, Promotion("2", (10, 100), 0.03, GUARDS), Busy(GOOD), lines.append)
    assert cluster.weights == {"1": 0, "2": 100, "4": 0}


async def test_version_that_stops_answering_between_steps_loses_its_weight(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(operations, "QUICK_WARM_UP_S", 0.05)
    releases = releases_on(cluster, path, history, lines)

    class Silencing(FixedMeter):
        async def measure(self) -> Mapping[str, Measurement]:
            cluster.silent.add("2")
            return {"errors": GOOD}

    with pytest.raises(
        ReleaseError, match=r"stopped at weight 50: .*status 503.*in force: 1=100 2=0"
    ):
        await promote(
            releases, Promotion("2", (10, 50), 0.03, GUARDS), Silencing(GOOD), lines.append
        )
    assert cluster.weights == {"1": 100, "2": 0}
    assert history.events[-1].action == "rollback"


@pytest.mark.parametrize("where", ["hold", "apply"])
async def test_interrupted_promotion_goes_back(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
):
    releases = releases_on(cluster, path, history, lines)
    before = path.read_text()
    reached = asyncio.Event()

    class Waiting(FixedMeter):
        async def measure(self) -> Mapping[str, Measurement]:
            reached.set()
            return {"errors": GOOD}

    if where == "apply":

        async def hangs(serve: ServeApi, config: Any) -> None:
            cluster.put(config)
            monkeypatch.undo()
            reached.set()
            await asyncio.sleep(60)

        monkeypatch.setattr("app.release.clients.serve_api.ServeApi.apply", hangs)
    promoting = asyncio.create_task(
        promote(releases, Promotion("2", (10, 50), 60.0, GUARDS), Waiting(GOOD), lines.append)
    )
    await reached.wait()
    assert cluster.weights == {"1": 90, "2": 10}
    promoting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await promoting
    assert cluster.weights == {"1": 100, "2": 0}
    assert path.read_text() == before
    assert "interrupted at weight 10" in lines


async def test_partly_saved_file_and_a_held_lock_are_retried(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    tasks: list[asyncio.Task[None]] = []

    async def save_and_work() -> None:
        text = path.read_text()
        path.write_text(text[: len(text) // 2])
        await asyncio.sleep(0.1)
        path.write_text(text)
        with ConfigFile(path).locked("retire by bob"):
            broken.append(BAD)
            await asyncio.sleep(0.2)

    class Disturbed(FixedMeter):
        async def measure(self) -> Mapping[str, Measurement]:
            if not tasks:
                tasks.append(asyncio.create_task(save_and_work()))
            return {"errors": broken[-1]}

    broken = [GOOD]
    with pytest.raises(GuardBroken, match="rolled back at weight 10: errors<1%"):
        await promote(releases, Promotion("2", (10, 50), 5.0, GUARDS), Disturbed(), lines.append)
    await tasks[0]
    assert cluster.weights == {"1": 100, "2": 0}


async def test_failed_rollback_is_reported(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(operations, "QUICK_WARM_UP_S", 0.05)
    releases = releases_on(cluster, path, history, lines)
    cluster.silent.add("1")
    with pytest.raises(
        ReleaseError,
        match=r"guard broken at weight 10: .*go back to 1=100 2=0, found: .*status 503",
    ):
        await promote(
            releases,
            Promotion("2", (10, 50), 5.0, GUARDS),
            FixedMeter(BAD),
            lines.append,
        )
    assert cluster.weights == {"1": 90, "2": 10}


async def test_version_that_is_not_released_is_not_promoted(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    with pytest.raises(UnknownVersion, match="there are 1, 2"):
        await promote(
            releases_on(cluster, path, history, lines),
            Promotion("9", (100,), 0.0, ()),
            [],
            lines.append,
        )


DISAGREEMENT = parse_guards("disagreement<5%")


class Pairs(FixedMeter):
    """A meter of disagreement that records the shadows of each step."""

    def __init__(self, cluster: FakeCluster, *of_step: Measurement | ReleaseError) -> None:
        super().__init__(*of_step)
        self.cluster = cluster
        self.shadows: list[list[str]] = []

    async def begin(self, version: str) -> None:
        await super().begin(version)
        self.shadows.append(self.cluster.shadows)

    async def measure(self) -> Mapping[str, Measurement]:
        return {"disagreement": (await super().measure())["errors"]}


async def test_guard_on_disagreement_makes_both_versions_shadows_meanwhile(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    before = path.read_text()
    meter = Pairs(cluster, GOOD)
    await promote(releases, Promotion("2", (10, 100), 0.03, DISAGREEMENT), meter, lines.append)
    assert meter.shadows == [["2", "1"], ["2", "1"]]
    assert (cluster.weights, cluster.shadows) == ({"1": 0, "2": 100}, [])
    await releases.rollback()
    assert path.read_text() == before


async def test_version_that_disagrees_is_rolled_back_and_no_shadow_is_left(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    before = path.read_text()
    with pytest.raises(
        GuardBroken, match=r"weight 10: disagreement<5%, found 0.5 in 50 pairs of answers"
    ):
        await promote(
            releases,
            Promotion("2", (10, 100), 5.0, DISAGREEMENT),
            Pairs(cluster, BAD),
            lines.append,
        )
    assert (cluster.weights, cluster.shadows) == ({"1": 100, "2": 0}, [])
    assert path.read_text() == before
    # weights and shadows went back together
    assert [event.action for event in history.events] == ["found", "step", "rollback"]


async def test_shadow_from_before_stays_one(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    await releases.shadow("2", on=True)
    before = path.read_text()
    meter = Pairs(cluster, BAD)
    with pytest.raises(GuardBroken):
        await promote(releases, Promotion("2", (10,), 5.0, DISAGREEMENT), meter, lines.append)
    assert meter.shadows == [["2", "1"]]
    assert cluster.shadows == ["2"]
    assert path.read_text() == before


async def test_interrupted_promotion_leaves_no_shadow(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    before = path.read_text()
    promoting = asyncio.create_task(
        promote(
            releases,
            Promotion("2", (10, 50), 60.0, DISAGREEMENT),
            Pairs(cluster, GOOD),
            lines.append,
        )
    )
    while not cluster.shadows:
        await asyncio.sleep(0.01)
    promoting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await promoting
    assert (cluster.weights, cluster.shadows) == ({"1": 100, "2": 0}, [])
    assert path.read_text() == before


async def test_weights_of_another_command_stay_and_shadows_end(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)

    class OtherCommand(Pairs):
        async def measure(self) -> Mapping[str, Measurement]:
            await releases.split({"1": 75, "2": 25})
            return await super().measure()

    with pytest.raises(ReleaseConflict, match="somebody changed them, and they stay"):
        await promote(
            releases,
            Promotion("2", (10, 50), 5.0, DISAGREEMENT),
            OtherCommand(cluster, GOOD),
            lines.append,
        )
    assert (cluster.weights, cluster.shadows) == ({"1": 75, "2": 25}, [])


async def test_shadows_that_cannot_be_ended_are_reported(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(ServeApi, "in_force_s", 0.1)
    releases = releases_on(cluster, path, history, lines)

    class Sealing(Pairs):
        async def measure(self) -> Mapping[str, Measurement]:
            if self.step == 1:
                cluster.refuses_user_config = True
            return await super().measure()

    meter = Sealing(cluster, GOOD)
    with pytest.raises(ReleaseError, match="previous weights stay in force"):
        await promote(releases, Promotion("2", (10, 100), 0.03, DISAGREEMENT), meter, lines.append)
    assert lines[-1].startswith("warning: expected to end the shadows 2 1")
    assert cluster.weights == {"1": 0, "2": 100}
