"""Release operations: add, warm up, move traffic, remove; the file always matches what runs."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.core.errors import (
    HydraulicDiagnosticsError,
    InputError,
    ReleaseConflict,
    ReleaseError,
    SettingsError,
    StoreUnavailable,
    UnknownVersion,
)
from app.demo.rig.equipment import rig_equipment
from app.release import operations
from app.release.clients.serve_api import ServeApi
from app.release.clients.service_api import ServiceApi
from app.release.config.edits import Placement
from app.release.config.file import ConfigFile
from app.release.promotion import Promotion, promote
from app.schemas.equipment import Equipment
from app.store.releases import ReleaseEvent
from tests.app.release.fake_cluster import FakeCluster, MemoryHistory, releases_on
from tests.app.release.test_promotion import GOOD, FixedMeter

TWO = Placement("3", "app/weights/2")
FILES = Path(__file__).parent / "files"


async def test_split_warms_up_gaining_versions_first(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    await releases.split({"1": 90, "2": 10})
    assert cluster.calls == ["warm-up 2", "apply"]
    assert cluster.weights == {"1": 90, "2": 10}
    assert [(event.action, dict(event.weights), event.reason) for event in history.events] == [
        ("found", {"1": 100.0, "2": 0.0}, "in force before, set by hand in the file"),
        ("split", {"1": 90.0, "2": 10.0}, "a reason"),
    ]
    assert "in force after" in lines[-1]


async def test_version_that_does_not_answer_gets_no_weight(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(operations, "QUICK_WARM_UP_S", 0.1)
    cluster.silent.add("2")
    before = path.read_text()
    with pytest.raises(
        ReleaseError, match="version 2 to answer a warm-up diagnosis, found: status 503"
    ):
        await releases_on(cluster, path, history, lines).split({"1": 90, "2": 10})
    assert path.read_text() == before
    assert cluster.weights == {"1": 100, "2": 0}
    assert "apply" not in cluster.calls


async def test_weights_that_the_ingress_refuses_are_reverted(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(ServeApi, "in_force_s", 0.1)
    before = path.read_text()
    releases = releases_on(cluster, path, history, lines)
    cluster.refuses_user_config = True
    with pytest.raises(
        ReleaseError, match=r"previous weights stay in force.*user_config was refused"
    ):
        await releases.split({"1": 90, "2": 10})
    assert path.read_text() == before
    assert cluster.calls == ["warm-up 2", "apply", "apply"]


async def test_rollback_goes_back_and_further_back(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    await releases.split({"1": 90, "2": 10})
    await releases.split({"1": 50, "2": 50})
    await releases.rollback()
    assert cluster.weights == {"1": 90, "2": 10}
    await releases.rollback()
    assert cluster.weights == {"1": 100, "2": 0}
    with pytest.raises(ReleaseError, match="expected earlier weights"):
        await releases.rollback()
    assert [event.action for event in history.events] == [
        "found",
        "split",
        "split",
        "rollback",
        "rollback",
    ]


async def test_rollback_of_weights_set_by_hand_is_to_the_last_command(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    await releases.split({"1": 90, "2": 10})
    path.write_text(
        path.read_text().replace("weight: 90", "weight: 40").replace("weight: 10", "weight: 60")
    )
    await releases.apply()
    assert cluster.weights == {"1": 40, "2": 60}
    await releases.rollback()
    assert cluster.weights == {"1": 90, "2": 10}


async def test_apply_warms_up_gaining_versions_and_is_recorded(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(operations, "QUICK_WARM_UP_S", 0.1)
    releases = releases_on(cluster, path, history, lines)
    path.write_text(
        path.read_text().replace("weight: 100", "weight: 90").replace("weight: 0", "weight: 10")
    )
    cluster.silent.add("2")
    with pytest.raises(ReleaseError, match="version 2 to answer a warm-up"):
        await releases.apply()
    assert (cluster.weights, history.events) == ({"1": 100, "2": 0}, [])
    cluster.silent.clear()
    cluster.calls.clear()
    await releases.apply()
    assert cluster.calls == ["warm-up 2", "apply"]
    assert [(event.action, event.version, dict(event.weights)) for event in history.events] == [
        ("found", "1", {"1": 100, "2": 0}),
        ("apply", "2", {"1": 90, "2": 10}),
    ]
    await releases.rollback()
    assert cluster.weights == {"1": 100, "2": 0}


async def test_apply_without_a_running_service_skips_warm_up(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    cluster.applied = {}
    await releases.apply()
    assert cluster.calls == ["apply"]
    assert "does not answer yet" in lines[0]


async def test_dry_run_of_apply_shows_the_change(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines, dry_run=True)
    path.write_text(
        path.read_text().replace("weight: 100", "weight: 90").replace("weight: 0", "weight: 10")
    )
    await releases.apply()
    changed = {
        line.replace(" ", "") for line in lines if "weight" in line and line.startswith(("+", "-"))
    }
    assert changed == {"-weight:100", "+weight:90", "-weight:0", "+weight:10"}
    assert (cluster.calls, history.events) == ([], [])


async def test_rollback_to_a_retired_version_says_so(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    await releases.split({"2": 100})
    await releases.retire("1")
    assert "model-1" not in cluster.applications
    with pytest.raises(ReleaseError, match="found 1 retired"):
        await releases.rollback()


async def test_rollback_waits_for_a_concurrent_command(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    releases = releases_on(cluster, path, history, lines)
    await releases.split({"2": 100})
    monkeypatch.setattr(ServeApi, "in_force_s", 0.3)
    with ConfigFile(path).locked("split by bob"):
        with pytest.raises(ReleaseConflict, match="split by bob"):
            await releases.split({"1": 100})
        with pytest.raises(ReleaseConflict, match="split by bob"):
            await releases.rollback()
    await releases.rollback()
    assert cluster.weights == {"1": 100, "2": 0}


async def test_deployed_version_has_weight_0_and_has_answered(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    await releases_on(cluster, path, history, lines).deploy(TWO)
    assert cluster.calls == ["apply", "warm-up 3", "warm-up 3", "warm-up 3"]
    assert cluster.weights == {"1": 100, "2": 0, "3": 0}
    assert cluster.applications["model-3"]["args"]["checkpoint"] == "app/weights/2"
    assert cluster.applied == yaml.safe_load(path.read_text())
    assert history.events[-1].action == "deploy"


@pytest.mark.parametrize("broken", ["start", "answer"])
async def test_version_that_fails_is_removed_again(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(operations, "WARM_UP_S", 0.1)
    before = path.read_text()
    if broken == "start":
        cluster.failing_to_start["model-3"] = "Traceback ...\nValueError: no such device\n"
    else:
        cluster.silent.add("3")
    cause = "ValueError: no such device" if broken == "start" else "status 503"
    with pytest.raises(ReleaseError, match=f"version 3 was refused.*{cause}"):
        await releases_on(cluster, path, history, lines).deploy(TWO)
    assert path.read_text() == before
    assert cluster.applied == yaml.safe_load(before)
    assert cluster.weights == {"1": 100, "2": 0}
    assert history.events == []


async def test_weights_moved_while_a_version_fails_to_start_stay(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    releases = releases_on(cluster, path, history, lines)

    async def fails(*_: Any) -> Any:
        await releases.split({"2": 100})
        raise ReleaseError("it did not come")

    monkeypatch.setattr("app.release.clients.serve_api.ServeApi.wait_running", fails)
    with pytest.raises(ReleaseError, match="it did not come"):
        await releases.deploy(TWO)
    assert cluster.weights == {"1": 0, "2": 100}
    assert "model-3" not in cluster.applications


async def test_dry_run_shows_the_difference_and_changes_nothing(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    before = path.read_text()
    releases = releases_on(cluster, path, history, lines, dry_run=True)
    await releases.split({"1": 90, "2": 10})
    changed = [line.replace(" ", "") for line in lines if line.startswith(("+ ", "- "))]
    assert changed == ["-weight:100", "+weight:90", "-weight:0", "+weight:10"]
    await releases.deploy(TWO)
    await releases.retire("2")
    assert "+  - name: model-3" in lines
    assert "-  - name: model-2" in lines
    assert (path.read_text(), cluster.calls, history.events) == (before, [], [])


async def test_unchanged_weights_are_nothing_to_do(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    await releases_on(cluster, path, history, lines).split({"1": 100})
    assert cluster.calls == []
    assert lines == ["nothing to do: serve_config.yaml already has 1=100 2=0"]


class UnavailableHistory:
    """A history whose database does not answer."""

    async def record_release(self, *_: Any, **__: Any) -> ReleaseEvent:
        raise StoreUnavailable("the database is away")

    async def list_releases(self, limit: int = 100) -> list[ReleaseEvent]:
        raise StoreUnavailable("the database is away")


async def test_without_the_database_weights_move_and_rollback_is_refused(
    path: Path, cluster: FakeCluster, lines: list[str]
):
    releases = releases_on(cluster, path, UnavailableHistory(), lines)  # type: ignore[arg-type]
    await releases.split({"2": 100})
    assert cluster.weights == {"1": 0, "2": 100}
    assert "not written to the release history" in lines[-1]
    with pytest.raises(ReleaseError, match="set weights instead"):
        await releases.rollback()


async def test_file_with_a_mistake_stops_every_command(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
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
    assert cluster.calls == []


async def test_version_with_weight_is_not_retired(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    with pytest.raises(HydraulicDiagnosticsError, match="without weight, found 100"):
        await releases_on(cluster, path, history, lines).retire("1")
    assert cluster.calls == []


async def test_retirement_that_the_ingress_refuses_is_reverted(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(ServeApi, "in_force_s", 0.1)
    before = path.read_text()
    releases = releases_on(cluster, path, history, lines)
    cluster.refuses_user_config = True
    with pytest.raises(ReleaseError, match="user_config was refused"):
        await releases.retire("2")
    assert path.read_text() == before
    assert cluster.applied == yaml.safe_load(before)


async def test_shadow_is_warmed_up_and_recorded(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    before = path.read_text()
    await releases.shadow("2", on=True)
    assert cluster.calls == ["warm-up 2", "apply"]
    assert (cluster.shadows, cluster.weights) == (["2"], {"1": 100, "2": 0})
    assert lines[-1].endswith("1=100 2=0, shadows 2")
    await releases.shadow("2", on=True)
    assert lines[-1] == "nothing to do: serve_config.yaml already has 1=100 2=0, shadows 2"
    with pytest.raises(SettingsError, match="not to be a shadow"):
        await releases.retire("2")
    await releases.shadow("2", on=False)
    assert cluster.shadows == []
    assert path.read_text() == before
    assert [(event.action, event.version) for event in history.events] == [
        ("found", "1"),
        ("shadow", "2"),
        ("shadow off", "2"),
    ]
    with pytest.raises(UnknownVersion, match="there are 1, 2"):
        await releases.shadow("9", on=True)


async def test_version_that_does_not_answer_becomes_no_shadow(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(operations, "QUICK_WARM_UP_S", 0.1)
    cluster.silent.add("2")
    releases = releases_on(cluster, path, history, lines)
    with pytest.raises(ReleaseError, match="version 2 to answer a warm-up"):
        await releases.shadow("2", on=True)
    assert (
        releases.read().config.traffic.shadows,
        cluster.calls.count("apply"),
        history.events,
    ) == ((), 0, [])


async def test_shadows_that_the_ingress_refuses_are_reverted(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(ServeApi, "in_force_s", 0.1)
    before = path.read_text()
    releases = releases_on(cluster, path, history, lines)
    cluster.refuses_user_config = True
    with pytest.raises(
        ReleaseError, match=r"expected 1=100 2=0, shadows 2 in force.*user_config was refused"
    ):
        await releases.shadow("2", on=True)
    assert path.read_text() == before


async def test_interrupted_split_is_reverted(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    before = path.read_text()
    cluster.refuses_user_config = True  # never in force
    moving = asyncio.create_task(
        releases_on(cluster, path, history, lines).split({"1": 90, "2": 10})
    )
    while path.read_text() == before:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert path.read_text() == before
    assert cluster.applied == yaml.safe_load(before)


async def test_rollback_ignores_shadow_events(
    path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    releases = releases_on(cluster, path, history, lines)
    await releases.split({"1": 90, "2": 10})
    await releases.shadow("2", on=True)
    await releases.rollback()
    assert (cluster.weights, cluster.shadows) == ({"1": 100, "2": 0}, ["2"])


async def test_file_after_ten_releases_keeps_its_comments_and_layout(
    tmp_path: Path, cluster: FakeCluster, history: MemoryHistory, lines: list[str]
):
    path = Path(shutil.copy(FILES / "before.yaml", tmp_path / "serve_config.yaml"))
    releases = releases_on(cluster, path, history, lines)
    await releases.deploy(Placement("3", "registry:3"))
    await releases.split({"1": 90, "3": 10})
    await releases.split({"1": 50, "3": 50})
    await releases.rollback()
    await promote(releases, Promotion("3", (25.0, 100.0), 0.01, ()), FixedMeter(GOOD), lines.append)
    await releases.retire("2")
    await releases.deploy(Placement("4", "registry:4", "cpu"))
    await releases.split({"1": 12.5, "3": 75, "4": 12.5})
    await promote(releases, Promotion("4", (100.0,), 0.0, ()), FixedMeter(GOOD), lines.append)
    await releases.retire("1")
    assert path.read_text() == (FILES / "after.yaml").read_text()
    assert cluster.applied == yaml.safe_load(path.read_text())
    assert cluster.weights == {"3": 0, "4": 100}


PRESS = Placement("3", "app/weights/2", designs=("press",))
"""A version of another design; its warm-up is that of the rig, which the fake cluster has."""


def shares(path: Path, design: str) -> dict[str, float]:
    return ConfigFile(path).read().config.traffic.shares(design)


async def test_deployed_version_serves_a_design_that_no_other_serves_and_says_so(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    any_design: None,
):
    releases = releases_on(cluster, path, history, lines)
    await releases.deploy(PRESS)
    await releases.deploy(PRESS._replace(version="4"))
    assert lines[1] == (
        "version 3 runs, with weight 0; it answers for press, as no other version does"
    )
    assert lines[3] == "version 4 runs, with weight 0"
    assert shares(path, "press") == {"3": 100}
    assert shares(path, "hydraulic-rig") == {"1": 100}


async def test_weights_of_a_design_change_nothing_for_others_and_are_rolled_back(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    any_design: None,
):
    releases = releases_on(cluster, path, history, lines)
    await releases.deploy(PRESS)
    await releases.deploy(PRESS._replace(version="4"))
    await releases.split({"3": 90, "4": 10}, "press")
    await releases.split({"3": 50, "4": 50}, "press")
    assert cluster.designs == {"press": {"3": 50, "4": 50}}
    assert cluster.weights == {"1": 100, "2": 0, "3": 0, "4": 0}
    assert history.events[-1].designs == {"press": {"3": 50, "4": 50}}
    with pytest.raises(SettingsError, match="design press gives it some"):
        await releases.retire("4")
    await releases.rollback()
    assert cluster.designs == {"press": {"3": 90, "4": 10}}
    await releases.rollback()
    assert cluster.designs == {}
    with pytest.raises(ReleaseError, match="version 3 answers for press without weight"):
        await releases.retire("3")
    await releases.retire("4")
    await releases.retire("3")
    assert lines[-1] == "version 3 was removed; no version serves press any more"


async def test_default_weights_take_no_design_its_versions(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    any_design: None,
):
    releases = releases_on(cluster, path, history, lines)
    await releases.deploy(PRESS)
    await releases.split({"1": 20, "2": 80})
    await releases.split({"3": 100})
    assert "machines of design hydraulic-rig keep 1=20 2=80" in "\n".join(lines)
    assert cluster.designs == {"hydraulic-rig": {"1": 20, "2": 80}}
    await releases.split({}, "hydraulic-rig")
    assert shares(path, "hydraulic-rig") == {"1": 100}


async def test_weights_of_a_version_that_does_not_serve_the_design_are_refused(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    any_design: None,
):
    releases = releases_on(cluster, path, history, lines)
    await releases.deploy(PRESS)
    before = path.read_text()
    with pytest.raises(SettingsError, match=r"serve design 'press' \(3\), found 1"):
        await releases.split({"1": 100}, "press")
    assert path.read_text() == before


async def test_promotion_changes_only_the_designs_of_its_version(
    path: Path,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
    any_design: None,
):
    releases = releases_on(cluster, path, history, lines)
    await releases.deploy(PRESS)
    await releases.deploy(PRESS._replace(version="4", designs=("press", "crane")))
    meter = FixedMeter(GOOD)
    await promote(releases, Promotion("4", (25,), 0.0, ()), meter, lines.append)
    assert cluster.designs == {"press": {"3": 75, "4": 25}, "crane": {"4": 100}}
    assert cluster.weights["1"] == 100
    await promote(releases, Promotion("4", (100,), 0.0, (), "press"), meter, lines.append)
    assert cluster.designs["press"] == {"4": 100}
    with pytest.raises(InputError, match=r"version 4 serves \(press, crane\), found 'mill'"):
        await promote(releases, Promotion("4", (50,), 0.0, (), "mill"), meter, lines.append)
    await promote(releases, Promotion("2", (30,), 0.0, ()), meter, lines.append)
    assert cluster.weights == {"1": 70, "2": 30, "3": 0, "4": 0}


@pytest.fixture
def any_design(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm versions of any design up with the rig."""
    monkeypatch.setattr(ServiceApi, "_machine_of", _rig)


async def _rig(*_: object) -> Equipment:
    return rig_equipment()
