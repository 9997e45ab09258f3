"""Promotions: steps up, and back to where they began when a guard breaks."""

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
from app.release.guards import Measured, parse_guards
from app.release.promotion import GuardBroken, Promotion, promote
from tests.app.release.stage import Stage, Written, releases_on

GUARDS = parse_guards("errors<1%", frozenset({"errors"}))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "POLL_S", 0.01)


class ComponentPrediction:
    """A meter that is told what to measure at each step."""

    names = frozenset({"errors"})

    def __init__(self, *of_step: Measured | ReleaseError) -> None:
        self.of_step = of_step
        self.step = -1

    async def begin(self, version: str) -> None:
        self.step += 1

    async def measure(self) -> Mapping[str, Measured]:
        found = self.of_step[min(self.step, len(self.of_step) - 1)]
        if isinstance(found, ReleaseError):
            raise found
        return {"errors": found}


GOOD, BAD = Measured(0.0, 50), Measured(0.5, 50)


async def test_steps_are_walked_to_the_end(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    await promote(
        releases,
        Promotion("2", (10, 50, 100), 0.03, GUARDS),
        [ComponentPrediction(GOOD)],
        said.append,
    )
    assert stage.weights == {"1": 0, "2": 100}
    assert [(event.action, event.weights["2"]) for event in written.events] == [
        ("found", 0),
        ("step", 10),
        ("step", 50),
        ("promote", 100),
    ]
    await releases.rollback()
    assert stage.weights == {"1": 100, "2": 0}


async def test_broken_guard_rolls_back_to_before_the_first_step_and_is_named(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    with pytest.raises(
        GuardBroken, match=r"rolled back at weight 50: errors<1%, found 0.5 in 50 calls"
    ):
        await promote(
            releases,
            Promotion("2", (10, 50, 100), 0.03, GUARDS),
            [ComponentPrediction(GOOD, BAD)],
            said.append,
        )
    assert stage.weights == {"1": 100, "2": 0}
    assert written.events[-1].action == "rollback"
    assert "errors<1%" in written.events[-1].reason


async def test_guard_that_cant_be_judged_does_not_let_pass(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(promotion, "BLIND_S", 0.05)
    releases = releases_on(stage, path, written, said)
    with pytest.raises(GuardBroken, match="can't be judged, only 3 calls"):
        await promote(
            releases,
            Promotion("2", (10,), 0.03, GUARDS),
            [ComponentPrediction(Measured(None, 3))],
            said.append,
        )
    with pytest.raises(GuardBroken, match="nothing could be measured"):
        await promote(
            releases,
            Promotion("2", (10,), 5.0, GUARDS),
            [ComponentPrediction(ReleaseError("gone"))],
            said.append,
        )
    assert stage.weights == {"1": 100, "2": 0}


async def test_weights_that_somebody_else_sets_meanwhile_stay(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)

    class Rude(ComponentPrediction):
        async def measure(self) -> Mapping[str, Measured]:
            await releases.split({"1": 75, "2": 25})
            return {"errors": GOOD}

    with pytest.raises(ReleaseConflict, match="somebody changed them, and they stay"):
        await promote(releases, Promotion("2", (10, 50), 5.0, GUARDS), [Rude(GOOD)], said.append)
    assert stage.weights == {"1": 75, "2": 25}


async def test_versions_without_weight_may_come_and_go_meanwhile(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    await releases.deploy(Placement("3", "app/weights/2"))

    class Busy(ComponentPrediction):
        async def begin(self, version: str) -> None:
            await super().begin(version)
            if self.step == 0:
                await releases.deploy(Placement("4", "app/weights/2"))
                await releases.retire("3")

    await promote(releases, Promotion("2", (10, 100), 0.03, GUARDS), [Busy(GOOD)], said.append)
    assert stage.weights == {"1": 0, "2": 100, "4": 0}


async def test_version_that_stops_answering_between_steps_loses_its_weight(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "QUICK_WARM_UP_S", 0.05)
    releases = releases_on(stage, path, written, said)

    class Silencing(ComponentPrediction):
        async def measure(self) -> Mapping[str, Measured]:
            stage.silent.add("2")
            return {"errors": GOOD}

    with pytest.raises(
        ReleaseError, match=r"stopped at weight 50: .*status 503.*in force: 1=100 2=0"
    ):
        await promote(
            releases, Promotion("2", (10, 50), 0.03, GUARDS), [Silencing(GOOD)], said.append
        )
    assert stage.weights == {"1": 100, "2": 0}
    assert written.events[-1].action == "rollback"


@pytest.mark.parametrize("where", ["hold", "apply"])
async def test_interrupted_promotion_goes_back(
    path: Path,
    stage: Stage,
    written: Written,
    said: list[str],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
):
    releases = releases_on(stage, path, written, said)
    before = path.read_text()
    reached = asyncio.Event()

    class Waiting(ComponentPrediction):
        async def measure(self) -> Mapping[str, Measured]:
            reached.set()
            return {"errors": GOOD}

    if where == "apply":

        async def hangs(serve: ServeApi, config: Any) -> None:
            stage.put(config)
            monkeypatch.undo()
            reached.set()
            await asyncio.sleep(60)

        monkeypatch.setattr("app.release.clients.serve_api.ServeApi.apply", hangs)
    promoting = asyncio.create_task(
        promote(releases, Promotion("2", (10, 50), 60.0, GUARDS), [Waiting(GOOD)], said.append)
    )
    await reached.wait()
    assert stage.weights == {"1": 90, "2": 10}
    promoting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await promoting
    assert stage.weights == {"1": 100, "2": 0}
    assert path.read_text() == before
    assert "interrupted at weight 10" in said


async def test_half_saved_file_and_a_busy_lock_are_waited_for(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    tasks: list[asyncio.Task[None]] = []

    async def save_and_work() -> None:
        text = path.read_text()
        path.write_text(text[: len(text) // 2])
        await asyncio.sleep(0.1)
        path.write_text(text)
        with ConfigFile(path).exclusive("retire by bob"):
            broken.append(BAD)
            await asyncio.sleep(0.2)

    class Disturbed(ComponentPrediction):
        async def measure(self) -> Mapping[str, Measured]:
            if not tasks:
                tasks.append(asyncio.create_task(save_and_work()))
            return {"errors": broken[-1]}

    broken = [GOOD]
    with pytest.raises(GuardBroken, match="rolled back at weight 10: errors<1%"):
        await promote(releases, Promotion("2", (10, 50), 5.0, GUARDS), [Disturbed()], said.append)
    await tasks[0]
    assert stage.weights == {"1": 100, "2": 0}


async def test_way_back_that_fails_is_told(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "QUICK_WARM_UP_S", 0.05)
    releases = releases_on(stage, path, written, said)
    stage.silent.add("1")
    with pytest.raises(
        ReleaseError,
        match=r"guard broken at weight 10: .*go back to 1=100 2=0, found: .*status 503",
    ):
        await promote(
            releases, Promotion("2", (10, 50), 5.0, GUARDS), [ComponentPrediction(BAD)], said.append
        )
    assert stage.weights == {"1": 90, "2": 10}


async def test_version_that_is_not_released_is_not_promoted(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    with pytest.raises(UnknownVersion, match="there are 1, 2"):
        await promote(
            releases_on(stage, path, written, said),
            Promotion("9", (100,), 0.0, ()),
            [],
            said.append,
        )


DISAGREEMENT = parse_guards("disagreement<5%", frozenset({"disagreement"}))


class Pairs(ComponentPrediction):
    """A meter of disagreement that notes who was a shadow at each step."""

    names = frozenset({"disagreement"})

    def __init__(self, stage: Stage, *of_step: Measured | ReleaseError) -> None:
        super().__init__(*of_step)
        self.stage = stage
        self.shadows: list[list[str]] = []

    async def begin(self, version: str) -> None:
        await super().begin(version)
        self.shadows.append(self.stage.shadows)

    async def measure(self) -> Mapping[str, Measured]:
        return {"disagreement": (await super().measure())["errors"]}


async def test_guard_on_disagreement_makes_both_versions_shadows_meanwhile(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    before = path.read_text()
    meter = Pairs(stage, GOOD)
    await promote(releases, Promotion("2", (10, 100), 0.03, DISAGREEMENT), [meter], said.append)
    assert meter.shadows == [["2", "1"], ["2", "1"]]
    assert (stage.weights, stage.shadows) == ({"1": 0, "2": 100}, [])
    await releases.rollback()
    assert path.read_text() == before


async def test_version_that_disagrees_is_rolled_back_and_no_shadow_is_left(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    before = path.read_text()
    with pytest.raises(
        GuardBroken, match=r"weight 10: disagreement<5%, found 0.5 in 50 pairs of answers"
    ):
        await promote(
            releases, Promotion("2", (10, 100), 5.0, DISAGREEMENT), [Pairs(stage, BAD)], said.append
        )
    assert (stage.weights, stage.shadows) == ({"1": 100, "2": 0}, [])
    assert path.read_text() == before
    # weights and shadows went back together
    assert [event.action for event in written.events] == ["found", "step", "rollback"]


async def test_shadow_of_before_is_one_afterwards(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    await releases.shadow("2", on=True)
    before = path.read_text()
    meter = Pairs(stage, BAD)
    with pytest.raises(GuardBroken):
        await promote(releases, Promotion("2", (10,), 5.0, DISAGREEMENT), [meter], said.append)
    assert meter.shadows == [["2", "1"]]
    assert stage.shadows == ["2"]
    assert path.read_text() == before


async def test_interrupted_promotion_leaves_no_shadow(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    before = path.read_text()
    promoting = asyncio.create_task(
        promote(
            releases,
            Promotion("2", (10, 50), 60.0, DISAGREEMENT),
            [Pairs(stage, GOOD)],
            said.append,
        )
    )
    while not stage.shadows:
        await asyncio.sleep(0.01)
    promoting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await promoting
    assert (stage.weights, stage.shadows) == ({"1": 100, "2": 0}, [])
    assert path.read_text() == before


async def test_weights_of_somebody_else_stay_and_the_shadows_go(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)

    class Rude(Pairs):
        async def measure(self) -> Mapping[str, Measured]:
            await releases.split({"1": 75, "2": 25})
            return await super().measure()

    with pytest.raises(ReleaseConflict, match="somebody changed them, and they stay"):
        await promote(
            releases, Promotion("2", (10, 50), 5.0, DISAGREEMENT), [Rude(stage, GOOD)], said.append
        )
    assert (stage.weights, stage.shadows) == ({"1": 75, "2": 25}, [])


async def test_shadows_that_can_not_be_ended_are_told(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "IN_FORCE_S", 0.1)
    releases = releases_on(stage, path, written, said)

    class Sealing(Pairs):
        async def measure(self) -> Mapping[str, Measured]:
            if self.step == 1:
                stage.refuses_user_config = True
            return await super().measure()

    meter = Sealing(stage, GOOD)
    with pytest.raises(ReleaseError, match="weights before stay in force"):
        await promote(releases, Promotion("2", (10, 100), 0.03, DISAGREEMENT), [meter], said.append)
    assert said[-1].startswith("warning: expected to end the shadows 2 1")
    assert stage.weights == {"1": 0, "2": 100}
