"""Operations on releases: add first, move weight when it answered, remove last; the file always says what runs."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.core.errors import (
    HydraulicDiagnosticsError,
    ReleaseConflict,
    ReleaseError,
    SettingsError,
    StoreUnavailable,
    UnknownVersion,
)
from app.release import operations
from app.release.config.edits import Placement
from app.release.config.file import ConfigFile
from app.release.promotion import Promotion, promote
from app.store.releases import ReleaseEvent
from tests.app.release.stage import Stage, Written, releases_on

TWO = Placement("3", "app/weights/2")
FILES = Path(__file__).parent / "files"


async def test_split_warms_up_who_gains_and_then_moves(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    await releases.split({"1": 90, "2": 10})
    assert stage.calls == ["warm-up 2", "apply"]
    assert stage.weights == {"1": 90, "2": 10}
    assert [(event.action, dict(event.weights), event.reason) for event in written.events] == [
        ("found", {"1": 100.0, "2": 0.0}, "in force before, set by hand in the file"),
        ("split", {"1": 90.0, "2": 10.0}, "a reason"),
    ]
    assert "in force after" in said[-1]


async def test_version_that_does_not_answer_gets_no_weight(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "QUICK_WARM_UP_S", 0.1)
    stage.silent.add("2")
    before = path.read_text()
    with pytest.raises(
        ReleaseError, match="version 2 to answer a warm-up diagnosis, found: status 503"
    ):
        await releases_on(stage, path, written, said).split({"1": 90, "2": 10})
    assert path.read_text() == before
    assert stage.weights == {"1": 100, "2": 0}
    assert "apply" not in stage.calls


async def test_weights_that_the_ingress_refuses_are_taken_back(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "IN_FORCE_S", 0.1)
    before = path.read_text()
    releases = releases_on(stage, path, written, said)
    stage.refuses_user_config = True
    with pytest.raises(
        ReleaseError, match=r"weights before stay in force.*user_config was refused"
    ):
        await releases.split({"1": 90, "2": 10})
    assert path.read_text() == before
    assert stage.calls == ["warm-up 2", "apply", "apply"]


async def test_rollback_goes_back_and_further_back(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    await releases.split({"1": 90, "2": 10})
    await releases.split({"1": 50, "2": 50})
    await releases.rollback()
    assert stage.weights == {"1": 90, "2": 10}
    await releases.rollback()
    assert stage.weights == {"1": 100, "2": 0}
    with pytest.raises(ReleaseError, match="expected earlier weights"):
        await releases.rollback()
    assert [event.action for event in written.events] == [
        "found",
        "split",
        "split",
        "rollback",
        "rollback",
    ]


async def test_rollback_of_weights_set_by_hand_is_to_the_last_command(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    await releases.split({"1": 90, "2": 10})
    path.write_text(
        path.read_text().replace("weight: 90", "weight: 40").replace("weight: 10", "weight: 60")
    )
    await releases.apply()
    assert stage.weights == {"1": 40, "2": 60}
    await releases.rollback()
    assert stage.weights == {"1": 90, "2": 10}


async def test_apply_warms_up_who_gains_and_is_written_down(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "QUICK_WARM_UP_S", 0.1)
    releases = releases_on(stage, path, written, said)
    path.write_text(
        path.read_text().replace("weight: 100", "weight: 90").replace("weight: 0", "weight: 10")
    )
    stage.silent.add("2")
    with pytest.raises(ReleaseError, match="version 2 to answer a warm-up"):
        await releases.apply()
    assert (stage.weights, written.events) == ({"1": 100, "2": 0}, [])
    stage.silent.clear()
    stage.calls.clear()
    await releases.apply()
    assert stage.calls == ["warm-up 2", "apply"]
    assert [(event.action, event.version, dict(event.weights)) for event in written.events] == [
        ("found", "1", {"1": 100, "2": 0}),
        ("apply", "2", {"1": 90, "2": 10}),
    ]
    await releases.rollback()
    assert stage.weights == {"1": 100, "2": 0}


async def test_apply_where_nothing_runs_yet_waits_for_no_answer(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    stage.applied = {}
    await releases.apply()
    assert stage.calls == ["apply"]
    assert "nothing answers yet" in said[0]


async def test_dry_run_of_apply_shows_how_what_runs_would_change(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said, dry_run=True)
    path.write_text(
        path.read_text().replace("weight: 100", "weight: 90").replace("weight: 0", "weight: 10")
    )
    await releases.apply()
    changed = {
        line.replace(" ", "") for line in said if "weight" in line and line.startswith(("+", "-"))
    }
    assert changed == {"-weight:100", "+weight:90", "-weight:0", "+weight:10"}
    assert (stage.calls, written.events) == ([], [])


async def test_rollback_to_a_retired_version_says_so(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    await releases.split({"2": 100})
    await releases.retire("1")
    assert "model-1" not in stage.applications
    with pytest.raises(ReleaseError, match="found 1 retired"):
        await releases.rollback()


async def test_rollback_waits_for_a_command_that_is_just_changing(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    releases = releases_on(stage, path, written, said)
    await releases.split({"2": 100})
    monkeypatch.setattr(operations, "IN_FORCE_S", 0.3)
    with ConfigFile(path).exclusive("split by bob"):
        with pytest.raises(ReleaseConflict, match="split by bob"):
            await releases.split({"1": 100})
        with pytest.raises(ReleaseConflict, match="split by bob"):
            await releases.rollback()
    await releases.rollback()
    assert stage.weights == {"1": 100, "2": 0}


async def test_deployed_version_has_weight_0_and_has_answered(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    await releases_on(stage, path, written, said).deploy(TWO)
    assert stage.calls == ["apply", "warm-up 3", "warm-up 3", "warm-up 3"]
    assert stage.weights == {"1": 100, "2": 0, "3": 0}
    assert stage.applications["model-3"]["args"]["checkpoint"] == "app/weights/2"
    assert stage.applied == yaml.safe_load(path.read_text())
    assert written.events[-1].action == "deploy"


@pytest.mark.parametrize("broken", ["start", "answer"])
async def test_version_that_fails_is_taken_out_again(
    path: Path,
    stage: Stage,
    written: Written,
    said: list[str],
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(operations, "WARM_UP_S", 0.1)
    before = path.read_text()
    if broken == "start":
        stage.failing_to_start["model-3"] = "Traceback ...\nValueError: no such device\n"
    else:
        stage.silent.add("3")
    told = "ValueError: no such device" if broken == "start" else "status 503"
    with pytest.raises(ReleaseError, match=f"version 3 was refused.*{told}"):
        await releases_on(stage, path, written, said).deploy(TWO)
    assert path.read_text() == before
    assert stage.applied == yaml.safe_load(before)
    assert stage.weights == {"1": 100, "2": 0}
    assert written.events == []


async def test_weights_moved_while_a_version_fails_to_start_stay(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    releases = releases_on(stage, path, written, said)

    async def fails(*_: Any) -> Any:
        await releases.split({"2": 100})
        raise ReleaseError("it did not come")

    monkeypatch.setattr("app.release.clients.serve_api.ServeApi.wait_running", fails)
    with pytest.raises(ReleaseError, match="it did not come"):
        await releases.deploy(TWO)
    assert stage.weights == {"1": 0, "2": 100}
    assert "model-3" not in stage.applications


async def test_dry_run_shows_the_difference_and_changes_nothing(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    before = path.read_text()
    releases = releases_on(stage, path, written, said, dry_run=True)
    await releases.split({"1": 90, "2": 10})
    changed = [line.replace(" ", "") for line in said if line.startswith(("+ ", "- "))]
    assert changed == ["-weight:100", "+weight:90", "-weight:0", "+weight:10"]
    await releases.deploy(TWO)
    await releases.retire("2")
    assert "+  - name: model-3" in said
    assert "-  - name: model-2" in said
    assert (path.read_text(), stage.calls, written.events) == (before, [], [])


async def test_weights_that_are_there_are_nothing_to_do(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    await releases_on(stage, path, written, said).split({"1": 100})
    assert stage.calls == []
    assert said == ["nothing to do: 1=100 2=0 is what the file says"]


class Away:
    """A history whose database is away."""

    async def record_release(self, *_: Any, **__: Any) -> ReleaseEvent:
        raise StoreUnavailable("the database is away")

    async def list_releases(self, limit: int = 100) -> list[ReleaseEvent]:
        raise StoreUnavailable("the database is away")


async def test_without_the_database_weights_move_and_the_way_back_is_told(
    path: Path, stage: Stage, said: list[str]
):
    releases = releases_on(stage, path, Away(), said)  # type: ignore[arg-type]
    await releases.split({"2": 100})
    assert stage.weights == {"1": 0, "2": 100}
    assert "not written to the history" in said[-1]
    with pytest.raises(ReleaseError, match="with `split`"):
        await releases.rollback()


async def test_file_with_a_mistake_stops_every_command(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    path.write_text(
        path.read_text().replace("max_ongoing_requests: 256", "max_ongoing_request: 256")
    )
    for command in (
        releases.apply(),
        releases.split({"2": 100}),
        releases.deploy(TWO),
        releases.retire("2"),
    ):
        with pytest.raises(SettingsError, match="did you mean 'max_ongoing_requests'"):
            await command
    assert stage.calls == []


async def test_version_with_weight_is_not_retired(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    with pytest.raises(HydraulicDiagnosticsError, match="without weight, found 100"):
        await releases_on(stage, path, written, said).retire("1")
    assert stage.calls == []


async def test_version_whose_end_the_ingress_refuses_stays(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "IN_FORCE_S", 0.1)
    before = path.read_text()
    releases = releases_on(stage, path, written, said)
    stage.refuses_user_config = True
    with pytest.raises(ReleaseError, match="user_config was refused"):
        await releases.retire("2")
    assert path.read_text() == before
    assert stage.applied == yaml.safe_load(before)


async def test_shadow_has_answered_before_it_gets_copies_and_is_written_down(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    before = path.read_text()
    await releases.shadow("2", on=True)
    assert stage.calls == ["warm-up 2", "apply"]
    assert (stage.shadows, stage.weights) == (["2"], {"1": 100, "2": 0})
    assert said[-1].endswith("1=100 2=0, shadows 2")
    await releases.shadow("2", on=True)
    assert said[-1] == "nothing to do: 1=100 2=0, shadows 2 is what the file says"
    with pytest.raises(SettingsError, match="shadow 2 --off"):
        await releases.retire("2")
    await releases.shadow("2", on=False)
    assert stage.shadows == []
    assert path.read_text() == before
    assert [(event.action, event.version) for event in written.events] == [
        ("found", "1"),
        ("shadow", "2"),
        ("shadow off", "2"),
    ]
    with pytest.raises(UnknownVersion, match="there are 1, 2"):
        await releases.shadow("9", on=True)


async def test_version_that_does_not_answer_becomes_no_shadow(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "QUICK_WARM_UP_S", 0.1)
    stage.silent.add("2")
    releases = releases_on(stage, path, written, said)
    with pytest.raises(ReleaseError, match="version 2 to answer a warm-up"):
        await releases.shadow("2", on=True)
    assert (releases.shadows(), stage.calls.count("apply"), written.events) == ((), 0, [])


async def test_shadows_that_the_ingress_refuses_are_taken_back(
    path: Path, stage: Stage, written: Written, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "IN_FORCE_S", 0.1)
    before = path.read_text()
    releases = releases_on(stage, path, written, said)
    stage.refuses_user_config = True
    with pytest.raises(
        ReleaseError, match=r"expected 1=100 2=0, shadows 2 in force.*user_config was refused"
    ):
        await releases.shadow("2", on=True)
    assert path.read_text() == before


async def test_weights_whose_command_is_interrupted_are_taken_back(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    before = path.read_text()
    stage.refuses_user_config = True  # never in force
    moving = asyncio.create_task(releases_on(stage, path, written, said).split({"1": 90, "2": 10}))
    while path.read_text() == before:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert path.read_text() == before
    assert stage.applied == yaml.safe_load(before)


async def test_rollback_goes_past_shadows(
    path: Path, stage: Stage, written: Written, said: list[str]
):
    releases = releases_on(stage, path, written, said)
    await releases.split({"1": 90, "2": 10})
    await releases.shadow("2", on=True)
    await releases.rollback()
    assert (stage.weights, stage.shadows) == ({"1": 100, "2": 0}, ["2"])


async def test_file_after_ten_releases_reads_as_if_a_person_had_written_it(
    tmp_path: Path, stage: Stage, written: Written, said: list[str]
):
    path = Path(shutil.copy(FILES / "before.yaml", tmp_path / "serve_config.yaml"))
    releases = releases_on(stage, path, written, said)
    await releases.deploy(Placement("3", "registry:3"))
    await releases.split({"1": 90, "3": 10})
    await releases.split({"1": 50, "3": 50})
    await releases.rollback()
    await promote(releases, Promotion("3", (25.0, 100.0), 0.01, ()), [], said.append)
    await releases.retire("2")
    await releases.deploy(Placement("4", "registry:4", "cpu"))
    await releases.split({"1": 12.5, "3": 75, "4": 12.5})
    await promote(releases, Promotion("4", (100.0,), 0.0, ()), [], said.append)
    await releases.retire("1")
    assert path.read_text() == (FILES / "after.yaml").read_text()
    assert stage.applied == yaml.safe_load(path.read_text())
    assert stage.weights == {"3": 0, "4": 100}
