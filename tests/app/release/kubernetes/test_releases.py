"""Release operations on a RayService do what they do on a file, also when the head restarts."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from threading import Timer

import pytest

from app.cli import diagnose, doctor, installation
from app.cli.installation import check_config
from app.core.errors import (
    InputError,
    ReleaseConflict,
    ReleaseError,
    ReleasesUnavailable,
    SettingsError,
)
from app.core.settings import Settings
from app.release import commands, promotion
from app.release.attempts import WeightsChanged
from app.release.config.edits import Placement, with_weights
from app.release.guards import Measurement, parse_guards
from app.release.kubernetes import lease
from app.release.kubernetes.rayservice import RayServiceConfig, RayServiceServe
from app.release.kubernetes.resource import RayServiceResource
from app.release.operations import Releases
from app.release.promotion import GuardBroken, Promotion, promote
from app.release.target import open_config, open_serve, url_of_service
from app.release.view import status_lines
from tests.app.release.fake_cluster import FakeCluster, MemoryHistory, service_api
from tests.app.release.kubernetes.conftest import stored
from tests.app.release.test_promotion import BAD, GOOD, FixedMeter
from tests.kuberay import Operator
from tests.kubernetes_api import ApiServer

GUARDS = parse_guards("errors<1%")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "POLL_S", 0.05)


async def test_weights_shadows_and_rollback_leave_the_text_as_it_was(
    releases: Releases, server: ApiServer, cluster: FakeCluster, text: str, history: MemoryHistory
):
    await releases.split({"1": 90, "2": 10})
    assert cluster.weights == {"1": 90, "2": 10}
    assert stored(server) == with_weights(text, {"1": 90, "2": 10})
    await releases.shadow("2", on=True)
    assert cluster.shadows == ["2"]
    await releases.shadow("2", on=False)
    await releases.split({"1": 30, "2": 70}, "hydraulic-rig")
    assert cluster.designs == {"hydraulic-rig": {"1": 30, "2": 70}}
    await releases.rollback()
    await releases.rollback()
    assert (cluster.weights, cluster.designs, cluster.shadows) == ({"1": 100, "2": 0}, {}, [])
    assert stored(server) == text
    assert [event.action for event in history.events] == [
        "found", "split", "shadow", "shadow off", "split", "rollback", "rollback",
    ]  # fmt: skip


async def test_version_is_deployed_and_retired(
    releases: Releases, server: ApiServer, cluster: FakeCluster, text: str, lines: list[str]
):
    await releases.deploy(Placement("3", "app/weights/2"))
    assert "model-3" in cluster.applications
    assert "version 3 runs, with weight 0" in lines
    status = server.get("rayservices", "plant", "diagnostics")["status"]["activeServiceStatus"]
    assert status["applicationStatuses"]["model-3"]["status"] == "RUNNING"
    await releases.retire("3")
    assert "model-3" not in cluster.applications
    assert stored(server) == text


async def test_version_that_does_not_start_is_removed_from_the_resource(
    releases: Releases, server: ApiServer, cluster: FakeCluster, text: str
):
    cluster.failing_to_start["model-3"] = "RuntimeError: no CUDA device"
    with pytest.raises(ReleaseError, match=r"version 3 was refused and removed again.*no CUDA"):
        await releases.deploy(Placement("3", "app/weights/2"))
    assert stored(server) == text
    await RayServiceServe.wait_gone(releases._serve, "model-3", 20)
    assert "model-3" not in cluster.applications


async def test_weights_that_do_not_come_in_force_are_reverted(
    releases: Releases,
    server: ApiServer,
    cluster: FakeCluster,
    text: str,
    operator: Operator,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(RayServiceServe, "in_force_s", 1.0)
    cluster.refuses_user_config = True
    with pytest.raises(ReleaseError, match="the previous weights stay in force"):
        await releases.split({"1": 90, "2": 10})
    assert (stored(server), cluster.weights) == (text, {"1": 100, "2": 0})

    cluster.refuses_user_config = False
    operator.stopped = True
    with pytest.raises(ReleaseError, match=r"KubeRay observed generation \d+ of \d+; active clus"):
        await releases.split({"1": 90, "2": 10})
    assert stored(server) == text
    operator.stopped = False
    await releases.split({"1": 90, "2": 10})
    assert cluster.weights == {"1": 90, "2": 10}


async def test_interrupted_change_is_reverted(
    releases: Releases, server: ApiServer, cluster: FakeCluster, text: str, operator: Operator
):
    operator.stopped = True
    splitting = asyncio.create_task(releases.split({"1": 90, "2": 10}))
    async with asyncio.timeout(30):
        while stored(server) == text:
            await asyncio.sleep(0.02)
        splitting.cancel()
        await asyncio.sleep(0.1)
        operator.stopped = False
        with pytest.raises(asyncio.CancelledError):
            await splitting
    assert (stored(server), cluster.weights) == (text, {"1": 100, "2": 0})
    assert server.get("leases", "plant", "diagnostics-release")["spec"]["holderIdentity"] == ""


async def test_promotion_goes_through_two_restarts_of_the_head(
    releases: Releases,
    server: ApiServer,
    cluster: FakeCluster,
    operator: Operator,
    history: MemoryHistory,
    lines: list[str],
):
    """Of a head only what Serve loses is simulated; replicas here are a fake that never restarts.

    The dashboard does not answer, Serve then has no application, and the operator sends the text
    again. The end-to-end test kills Serve's controller.
    """
    restarts: list[asyncio.Task[None]] = []

    async def restart() -> None:
        operator.head_is_ready, cluster.head_is_down = False, True
        await asyncio.sleep(0.7)
        cluster.restart_head()
        cluster.head_is_down, operator.head_is_ready = False, True

    class Restarting(FixedMeter):
        async def begin(self, version: str) -> None:
            await super().begin(version)
            if self.step in (0, 1):  # so the next step is written while the head is away
                restarts.append(asyncio.create_task(restart()))

    meter = Restarting(GOOD)
    await promote(releases, Promotion("2", (10, 50, 100), 0.1, GUARDS), meter, lines.append)
    assert [task.done() for task in restarts] == [True, True]
    assert cluster.weights == {"1": 0, "2": 100}
    assert [(event.action, event.weights["2"]) for event in history.events] == [
        ("found", 0),
        ("step", 10),
        ("step", 50),
        ("promote", 100),
    ]
    cluster.restart_head()
    cluster._weights = {}
    async with asyncio.timeout(30):
        while cluster.weights != {"1": 0, "2": 100}:  # KubeRay applied the last step again
            await asyncio.sleep(0.05)
    await releases.rollback()
    assert cluster.weights == {"1": 100, "2": 0}


async def test_outage_of_the_api_server_does_not_end_a_promotion_and_a_broken_guard_does(
    releases: Releases, server: ApiServer, cluster: FakeCluster, lines: list[str], text: str
):
    ending = Timer(0.5, lambda: setattr(server, "down", False))

    class Disturbed(FixedMeter):
        async def measure(self) -> Mapping[str, Measurement]:
            if ending.ident is None:
                server.down = True
                ending.start()
            return await super().measure()

    with pytest.raises(GuardBroken, match="rolled back at weight 50"):
        await promote(
            releases, Promotion("2", (10, 50), 0.2, GUARDS), Disturbed(GOOD, BAD), lines.append
        )
    ending.join()
    assert (stored(server), cluster.weights) == (text, {"1": 100, "2": 0})


async def test_person_s_edit_stays_and_ends_the_promotion(
    releases: Releases, server: ApiServer, cluster: FakeCluster, lines: list[str], text: str
):
    edited = with_weights(text, {"1": 75, "2": 25})

    class Edited(FixedMeter):
        async def begin(self, version: str) -> None:
            given = {"spec": {"serveConfigV2": edited}}
            server.merge("rayservices", "plant", "diagnostics", given, "kubectl-edit")

    with pytest.raises(ReleaseConflict, match="somebody changed them, and they stay"):
        await promote(releases, Promotion("2", (10, 50), 5, GUARDS), Edited(GOOD), lines.append)
    assert stored(server) == edited
    async with asyncio.timeout(30):
        while cluster.weights != {"1": 75, "2": 25}:
            await asyncio.sleep(0.05)


async def test_second_command_waits_or_is_refused(
    releases: Releases,
    config: RayServiceConfig,
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
):
    await releases.split({"1": 90, "2": 10})
    monkeypatch.setattr(lease, "RENEW_S", 0.5)
    with config.locked("deploy 3 by bob"):
        with pytest.raises(ReleaseConflict, match="deploy 3 by bob"):
            await releases.split({"1": 50, "2": 50})
        rolling_back = asyncio.create_task(releases.rollback())
        await asyncio.sleep(0.3)
        assert not rolling_back.done()
    await rolling_back
    assert cluster.weights == {"1": 100, "2": 0}


async def test_status_says_how_far_kuberay_is(
    settings: Settings,
    releases: Releases,
    operator: Operator,
    cluster: FakeCluster,
    history: MemoryHistory,
    resource: RayServiceResource,
):
    config, serve = open_config(settings), open_serve(settings, None, lambda: "unused")
    async with serve:
        found = await status_lines(config, serve, service_api(cluster), history)
    assert any(line.startswith("version 1: weight 100 configured, 100 in force") for line in found)
    assert (
        "KubeRay observed generation 1 of 1; active cluster 'cluster-1': diagnostics RUNNING, "
        "live-demo RUNNING, model-1 RUNNING, model-2 RUNNING"
    ) in found
    assert "spec.serveConfigV2 is managed by kubectl" in found
    await releases.split({"1": 90, "2": 10})
    assert resource.read().managers == ("hydraulic-release",)
    operator.pending = "cluster-2"
    async with asyncio.timeout(30):
        while "an upgrade of the Ray cluster" not in "".join(resource.read().lines()):
            await asyncio.sleep(0.05)


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings as variables, for what reads them itself."""
    for name in ("rayservice", "kubernetes_url", "kubernetes_token_file", "var_dir"):
        monkeypatch.setenv(f"HYDRAULIC_{name.upper()}", str(getattr(settings, name)))


def test_text_is_shown_or_written_also_when_it_is_broken(
    environment: None, server: ApiServer, text: str, lines: list[str], tmp_path: Path
):
    commands.show(None, None, lines.append)
    assert lines == [text.rstrip("\n")]
    commands.show(None, tmp_path / "out.yaml", lines.append)
    assert (tmp_path / "out.yaml").read_text() == text
    assert lines[1] == f"wrote RayService plant/diagnostics to {tmp_path / 'out.yaml'}"
    with pytest.raises(SettingsError, match="give another --out"):
        commands.show(None, tmp_path / "absent" / "out.yaml", lines.append)
    broken = {"spec": {"serveConfigV2": "a: [\n"}}
    server.merge("rayservices", "plant", "diagnostics", broken, "kubectl-edit")
    with pytest.raises(SettingsError, match="expected YAML in 'RayService plant/diagnostics'"):
        commands.show(None, None, lines.append)
    assert lines[2] == "a: ["


async def test_messages_name_the_rayservice(
    releases: Releases, settings: Settings, operator: Operator, lines: list[str]
):
    await releases.split({"1": 100, "2": 0})
    assert lines[-1] == "nothing to do: RayService plant/diagnostics already has 1=100 2=0"
    changed = WeightsChanged(releases.read().split, releases.name)
    assert "in 'RayService plant/diagnostics', found 1=100 2=0" in changed.message


def test_doctor_and_diagnose_look_at_the_rayservice(
    environment: None, server: ApiServer, text: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HYDRAULIC_SERVE_CONFIG", "absent.yaml")
    monkeypatch.setenv("HYDRAULIC_API_KEY", "x" * 32)
    monkeypatch.setattr(doctor, "_state_of_service", lambda _: None)
    given = Settings()
    found = next(iter(check_config(given)))
    assert found.message == "RayService plant/diagnostics, version 1: 100 %, version 2: 0 %"
    (port,) = doctor._ports(given)
    assert (port.level, "http://diagnostics-serve-svc.plant:" in port.message) == ("warning", True)
    with diagnose.service_client(given, None) as client:
        assert client.base_url.host == "diagnostics-serve-svc.plant"
    server.down = True
    monkeypatch.setattr(installation, "LIMIT_S", 0.2)
    with pytest.raises(ReleasesUnavailable):
        next(iter(check_config(given)))


def test_file_beside_a_rayservice_is_refused_and_addresses_follow_its_name(
    settings: Settings, config: RayServiceConfig, tmp_path: object
):
    with pytest.raises(InputError, match=r"HYDRAULIC_RAYSERVICE=plant/diagnostics.*leave one out"):
        open_config(settings, settings.serve_config)
    url = url_of_service(settings, config.read().config)
    assert url.startswith("http://diagnostics-serve-svc.plant:")
