"""Releases whose write takes effect on an API server that then does not answer for a while."""

import asyncio
from collections.abc import Callable
from threading import Timer

import pytest
from tenacity import wait_fixed

from app.core.errors import ReleaseError, ReleasesUnavailable
from app.release import promotion
from app.release.clients.serve_api import TokenRefused
from app.release.clients.service_api import ServiceApi
from app.release.config.edits import Placement, with_weights
from app.release.guards import parse_guards
from app.release.kubernetes import lease
from app.release.kubernetes.rayservice import RayServiceServe
from app.release.operations import Releases
from app.release.promotion import GuardBroken, Promotion, promote
from tests.app.release.fake_cluster import FakeCluster, MemoryHistory
from tests.app.release.kubernetes.conftest import stored
from tests.app.release.test_promotion import BAD, GOOD, FixedMeter
from tests.kuberay import Operator
from tests.kubernetes_api import ApiServer

GUARDS = parse_guards("errors<1%")
Outage = Callable[..., None]
OUTAGE_S = 1.0
"""Longer than a request is repeated here."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "POLL_S", 0.05)
    monkeypatch.setattr("app.release.kubernetes.api.RETRY_S", 0.2)
    monkeypatch.setattr(RayServiceServe, "retry_wait", wait_fixed(0.2))


@pytest.fixture
def outage_after_write(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Outage:
    """Return what makes the next applied text the last answer before an outage; that is lost."""
    apply = ApiServer.apply

    def begin(outage_s: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        def applied(*args: object, **options: object) -> object:
            found = apply(*args, **options)
            monkeypatch.setattr(ApiServer, "apply", apply)
            server.down = True
            server.drops.append("PATCH rayservices")
            meanwhile()
            Timer(outage_s, lambda: setattr(server, "down", False)).start()
            return found

        monkeypatch.setattr(ApiServer, "apply", applied)

    return begin


async def test_rollback_does_not_put_the_bad_version_back_after_an_outage(
    releases: Releases,
    server: ApiServer,
    cluster: FakeCluster,
    text: str,
    history: MemoryHistory,
    outage_after_write: Outage,
):
    await releases.split({"1": 90, "2": 10})
    outage_after_write(OUTAGE_S)
    await releases.rollback()
    assert (stored(server), cluster.weights) == (text, {"1": 100, "2": 0})
    assert [event.action for event in history.events] == ["found", "split", "rollback"]


async def test_rollback_leaves_weights_that_somebody_sets_during_the_outage(
    releases: Releases,
    server: ApiServer,
    text: str,
    outage_after_write: Outage,
):
    await releases.split({"1": 90, "2": 10})
    edited = with_weights(text, {"1": 75, "2": 25})
    given = {"spec": {"serveConfigV2": edited}}

    def edit() -> None:
        server.merge("rayservices", "plant", "diagnostics", given, "kubectl-edit")

    outage_after_write(OUTAGE_S, edit)
    with pytest.raises(ReleaseError, match="somebody changed them, and they stay"):
        await releases.rollback()
    assert stored(server) == edited


async def test_step_whose_answer_is_lost_is_recorded_and_watched_by_its_guards(
    releases: Releases,
    server: ApiServer,
    cluster: FakeCluster,
    text: str,
    history: MemoryHistory,
    lines: list[str],
    outage_after_write: Outage,
):
    outage_after_write(OUTAGE_S)
    with pytest.raises(GuardBroken, match="rolled back at weight 10"):
        await promote(
            releases, Promotion("2", (10, 50), 0.2, GUARDS), FixedMeter(BAD), lines.append
        )
    assert (stored(server), cluster.weights) == (text, {"1": 100, "2": 0})
    assert [event.action for event in history.events] == ["found", "step", "rollback"]


async def test_rollback_of_a_promotion_survives_an_outage_and_warms_up_once(
    releases: Releases,
    server: ApiServer,
    cluster: FakeCluster,
    text: str,
    history: MemoryHistory,
    lines: list[str],
    outage_after_write: Outage,
):
    class Breaking(FixedMeter):
        async def begin(self, version: str) -> None:
            await super().begin(version)
            if self.step == 1:
                outage_after_write(OUTAGE_S)

    with pytest.raises(GuardBroken, match="rolled back at weight 100"):
        await promote(
            releases, Promotion("2", (10, 100), 0.2, GUARDS), Breaking(GOOD, BAD), lines.append
        )
    assert (stored(server), cluster.weights) == (text, {"1": 100, "2": 0})
    assert [event.action for event in history.events][-1] == "rollback"
    assert [call for call in cluster.calls if call != "apply"].count("warm-up 1") == 1


async def test_attempts_of_a_promotion_warm_up_once_and_pause(
    releases: Releases, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
):
    attempts = []

    def refused(*_: object) -> None:
        attempts.append(1)
        raise ReleasesUnavailable("no answer")

    monkeypatch.setattr(RayServiceServe, "in_force_s", 3.0)
    monkeypatch.setattr("app.release.kubernetes.rayservice.RayServiceConfig.replace", refused)
    before = releases.read().split
    with pytest.raises(ReleasesUnavailable, match="the change may have been written"):
        await releases.move_from([before], before.changed(None, {"1": 90, "2": 10}), "step", "2")
    assert 1 < len(attempts) < 20
    assert cluster.calls.count("warm-up 2") == 1


async def started_split(releases: Releases, server: ApiServer, text: str) -> asyncio.Task[None]:
    """Return a split that has written its text and waits for KubeRay."""
    splitting = asyncio.create_task(releases.split({"1": 90, "2": 10}))
    async with asyncio.timeout(60):
        while stored(server) == text:
            await asyncio.sleep(0.01)
    return splitting


async def test_text_is_restored_after_an_outage(
    releases: Releases,
    server: ApiServer,
    text: str,
    operator: Operator,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(RayServiceServe, "in_force_s", 1.0)
    operator.stopped = True
    splitting = await started_split(releases, server, text)
    server.down = True
    await asyncio.sleep(1.0)
    Timer(OUTAGE_S, lambda: setattr(server, "down", False)).start()
    with pytest.raises(ReleaseError, match="to be applied within 1 s"):
        await splitting
    assert stored(server) == text


async def test_text_that_cannot_be_restored_is_named_with_the_first_error(
    releases: Releases,
    server: ApiServer,
    text: str,
    operator: Operator,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(RayServiceServe, "in_force_s", 1.0)
    monkeypatch.setattr(RayServiceServe, "outage_s", 0.3)
    monkeypatch.setattr(lease, "RETRY_S", 0.2)
    operator.stopped = True
    splitting = await started_split(releases, server, text)
    server.down = True
    with pytest.raises(ReleaseError) as caught:
        await splitting
    assert "to be applied within 1 s" in str(caught.value.__cause__)
    assert str(caught.value).endswith(
        "the new text stays in RayService plant/diagnostics; run `hydraulic release rollback`"
    )


async def test_interrupted_change_that_cannot_be_restored_ends_as_interrupted(
    releases: Releases,
    server: ApiServer,
    text: str,
    operator: Operator,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(RayServiceServe, "outage_s", 0.3)
    monkeypatch.setattr(lease, "RETRY_S", 0.2)
    operator.stopped = True
    splitting = await started_split(releases, server, text)
    server.down = True
    splitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await splitting
    assert lines[-1].startswith("warning: expected to restore RayService plant/diagnostics")


async def test_restored_text_that_is_not_applied_hides_neither_error_nor_interruption(
    releases: Releases,
    server: ApiServer,
    cluster: FakeCluster,
    text: str,
    operator: Operator,
    monkeypatch: pytest.MonkeyPatch,
):
    async def refused(*_: object) -> None:
        operator.stopped = True
        raise ReleaseError("user_config was refused")

    monkeypatch.setattr(RayServiceServe, "outage_s", 0.3)
    monkeypatch.setattr(ServiceApi, "wait_traffic", refused)
    with pytest.raises(ReleaseError, match=r"not yet in force.*: user_config was refused"):
        await releases.split({"1": 90, "2": 10})
    assert stored(server) == text

    splitting = await started_split(releases, server, text)  # the operator stays stopped
    splitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await splitting
    assert stored(server) == text


async def test_version_that_cannot_be_removed_again_is_named_with_why_it_was_refused(
    releases: Releases,
    server: ApiServer,
    monkeypatch: pytest.MonkeyPatch,
):
    async def failed(*_: object) -> None:
        server.down = True
        monkeypatch.setattr(RayServiceServe, "in_force_s", 0.5)
        raise ReleaseError("no CUDA device")

    monkeypatch.setattr(RayServiceServe, "wait_running", failed)
    with pytest.raises(
        ReleaseError,
        match=r"could not be removed.*`hydraulic release retire 3`; it was refused since: no CUDA",
    ):
        await releases.deploy(Placement("3", "app/weights/2"))


async def test_refused_token_of_the_dashboard_is_not_waited_for(
    releases: Releases, server: ApiServer, text: str, monkeypatch: pytest.MonkeyPatch
):
    reads = []

    async def refused(*_: object) -> None:
        reads.append(1)
        raise TokenRefused("expected the dashboard to accept Ray's token")

    monkeypatch.setattr(RayServiceServe, "applications", refused)
    with pytest.raises(ReleaseError, match="the previous weights stay in force: expected the dash"):
        await releases.split({"1": 90, "2": 10})
    assert (len(reads), stored(server)) == (1, text)
