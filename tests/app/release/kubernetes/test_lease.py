"""The Lease of releases: one holder, renewed while it works, free again when it was killed."""

import time
from pathlib import Path

import pytest

from app.core.errors import ReleaseConflict, ReleasesUnavailable
from app.core.settings import Settings
from app.release.kubernetes import lease
from app.release.kubernetes.api import KubernetesApi, find_access
from app.release.kubernetes.lease import LeaseLock
from tests.kubernetes_api import ApiServer, Object
from tests.waiting import wait_until


@pytest.fixture
def lock(settings: Settings) -> LeaseLock:
    return LeaseLock(KubernetesApi(find_access(settings, {})), "plant", "diagnostics-release")


def spec_of(server: ApiServer) -> Object:
    found: Object = server.get("leases", "plant", "diagnostics-release")["spec"]
    return found


def test_second_holder_is_refused_by_name_until_the_first_one_has_ended(
    server: ApiServer, lock: LeaseLock, settings: Settings
):
    other = LeaseLock(KubernetesApi(find_access(settings, {})), "plant", "diagnostics-release")
    with lock.held("split by ann, process 7"):
        assert spec_of(server)["holderIdentity"].startswith("split by ann, process 7, ")
        with (
            pytest.raises(ReleaseConflict, match=r"split by ann, process 7.*in 1\d s if it was"),
            other.held("rollback by bob"),
        ):
            pass
    assert spec_of(server)["holderIdentity"] == ""
    with other.held("rollback by bob"):
        assert spec_of(server)["leaseTransitions"] == 1


def test_lease_of_a_killed_command_expires_and_its_holder_notices(
    server: ApiServer, lock: LeaseLock, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "RENEW_S", 3600.0)  # the first holder is stopped, not killed
    monkeypatch.setattr(lease, "LEASE_S", 2)
    other = LeaseLock(KubernetesApi(find_access(settings, {})), "plant", "diagnostics-release")

    def taken() -> bool:
        try:
            with other.held("rollback by bob"):
                return True
        except ReleaseConflict:
            return False

    with lock.held("split by ann"):
        lock.check()
        wait_until(taken, "the expired lease", pause_s=0.2)
        lock._renew("split by ann", _NeverEnded())  # what the thread does when it goes on
        with pytest.raises(ReleaseConflict, match="found it with 'nobody'"):
            lock.check()
    assert spec_of(server)["holderIdentity"] == ""


class _NeverEnded:
    def wait(self, _: float) -> bool:
        return False


def test_lease_is_renewed_while_its_holder_works(
    server: ApiServer, lock: LeaseLock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    with lock.held("split by ann"):
        first = spec_of(server)["renewTime"]
        wait_until(lambda: spec_of(server)["renewTime"] != first, "a renewal")
        server.down = True
        time.sleep(0.2)
        server.down = False
        second = spec_of(server)["renewTime"]
        wait_until(lambda: spec_of(server)["renewTime"] != second, "a renewal after an outage")
        lock.check()


def test_lease_that_could_not_be_renewed_in_time_does_not_count_until_it_is(
    server: ApiServer, lock: LeaseLock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    monkeypatch.setattr(lease, "RETRY_S", 0.1)
    monkeypatch.setattr(lease, "LEASE_S", 1)

    def is_valid() -> bool:
        try:
            lock.check()
        except ReleasesUnavailable:
            return False
        return True

    with lock.held("split by ann"):
        wait_until(is_valid, "the Lease")
        server.down = True
        wait_until(lambda: not is_valid(), "the end of the Lease")
        server.down = False
        wait_until(is_valid, "a renewal")


def test_renewal_ends_before_the_lease_expires():
    assert lease.RENEW_S + 2 * lease.TIMEOUT_S < lease.LEASE_S
    assert lease.RENEW_S + lease.RETRY_S + lease.TIMEOUT_S < lease.LEASE_S


@pytest.mark.parametrize("drop", ["POST leases", "PUT leases"])
def test_lost_answer_leaves_the_lease_with_its_holder(
    server: ApiServer, lock: LeaseLock, drop: str, tmp_path: Path
):
    if drop == "PUT leases":
        with lock.held("earlier"):
            pass
    server.drops.append(drop)
    with lock.held("split by ann"):
        assert spec_of(server)["holderIdentity"].startswith("split by ann")
    assert server.drops == []
