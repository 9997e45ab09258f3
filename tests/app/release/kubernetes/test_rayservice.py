"""The RayService as holder of the configuration: no update is lost, and the text keeps its form."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from tenacity import RetryCallState, Retrying

from app.core.errors import ReleaseConflict, SettingsError
from app.core.settings import Settings
from app.release.config.edits import with_weights
from app.release.kubernetes.api import KubernetesApi, find_access
from app.release.kubernetes.rayservice import RayServiceConfig, RayServiceServe
from app.release.kubernetes.resource import FIELD_MANAGER, RayServiceResource
from tests.app.release.kubernetes.conftest import PLACE, stored
from tests.kubernetes_api import ApiServer, Object


def service(server: ApiServer) -> Object:
    return server.get("rayservices", "plant", "diagnostics")


def test_text_is_replaced_with_its_comments_and_taken_from_the_manager_before(
    server: ApiServer, config: RayServiceConfig, text: str, caplog: pytest.LogCaptureFixture
):
    before = config.read()
    assert (before.text, before.weights) == (text, {"1": 100, "2": 0})
    changed = with_weights(text, {"1": 90, "2": 10})
    with caplog.at_level(logging.WARNING), config.locked("split by ann"):
        after = config.replace(before, changed)
    assert stored(server) == changed == after.text
    assert changed.count("#") == text.count("#") > 5
    assert service(server)["spec"]["rayClusterConfig"] == {"rayVersion": "2.60.0"}
    owners = {
        item["manager"]: "f:serveConfigV2" in item["fieldsV1"]["f:spec"]
        for item in service(server)["metadata"]["managedFields"]
    }
    assert owners == {"kubectl": False, FIELD_MANAGER: True}
    (record,) = [each for each in caplog.records if each.message == "serveConfigV2 taken over"]
    assert record.__dict__["managers"] == ['conflict with "kubectl" using ray.io/v1']

    caplog.clear()
    with config.locked("rollback by ann"):
        config.replace(after, text)
    assert (stored(server), caplog.records) == (text, [])


def test_next_apply_of_the_manifest_conflicts_instead_of_setting_weights_back(
    server: ApiServer, config: RayServiceConfig, text: str
):
    with config.locked("split"):
        config.replace(config.read(), with_weights(text, {"1": 90, "2": 10}))
    manifest = {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": {"name": "x"}}
    manifest["spec"] = {"serveConfigV2": text}
    with pytest.raises(Exception, match=r"Apply failed with 1 conflict"):
        server.apply("rayservices", "plant", "diagnostics", manifest, "kubectl", force=False)


def test_text_that_changed_since_it_was_read_is_not_replaced(
    server: ApiServer, config: RayServiceConfig, text: str
):
    before = config.read()
    edited = with_weights(text, {"1": 50, "2": 50})
    given = {"spec": {"serveConfigV2": edited}}
    server.merge("rayservices", "plant", "diagnostics", given, "kubectl-edit")
    with (
        config.locked("split"),
        pytest.raises(ReleaseConflict, match="found it changed since: read it and repeat"),
    ):
        config.replace(before, with_weights(text, {"1": 90, "2": 10}))
    assert stored(server) == edited


def test_status_that_is_written_meanwhile_does_not_matter(
    server: ApiServer, config: RayServiceConfig, text: str, monkeypatch: pytest.MonkeyPatch
):
    read, writes = RayServiceResource.read, [1, 2, 3]

    def read_before_a_write(self: RayServiceResource) -> object:
        found = read(self)
        if writes:
            now = service(server)
            now["status"] = {"observedGeneration": 1, "numServeEndpoints": writes.pop()}
            server.update("rayservices", "plant", "diagnostics", now, "kuberay", "status")
        return found

    before = config.read()
    with config.locked("split"):
        monkeypatch.setattr(RayServiceResource, "read", read_before_a_write)
        config.replace(before, with_weights(text, {"1": 90, "2": 10}))
    assert (writes, service(server)["metadata"]["generation"]) == ([], 2)
    assert "weight: 90" in stored(server)
    assert service(server)["status"]["numServeEndpoints"] == 1


@pytest.mark.parametrize("is_taken_over", [True, False])
def test_write_whose_answer_is_lost_counts_once(
    server: ApiServer, config: RayServiceConfig, text: str, is_taken_over: bool
):
    before = config.read()
    if is_taken_over:
        with config.locked("first"):
            before = config.replace(before, with_weights(text, {"1": 80, "2": 20}))
    generation = service(server)["metadata"]["generation"]
    server.drops.append("PATCH rayservices")
    with config.locked("split"):
        config.replace(before, with_weights(text, {"1": 90, "2": 10}))
    assert "weight: 90" in stored(server)
    assert service(server)["metadata"]["generation"] == generation + 1


def test_concurrent_writers_lose_no_update(server: ApiServer, settings: Settings, text: str):
    resource = RayServiceResource(KubernetesApi(find_access(settings, {})), PLACE)

    def raise_by_five(_: int) -> None:
        while True:  # without the lease: the resource version alone keeps them apart
            now = resource.read()
            weight = RayServiceConfig(resource).parse(now.spec.text).weights["2"] + 5
            changed = with_weights(now.spec.text, {"1": 100 - weight, "2": weight})
            if resource.apply(changed, now.metadata.resource_version, force=True) is None:
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(raise_by_five, range(12)))
    assert RayServiceConfig(resource).read().weights == {"1": 40, "2": 60}


def test_digest_and_invalid_texts_are_refused(
    server: ApiServer, resource: RayServiceResource, config: RayServiceConfig, text: str
):
    with pytest.raises(ReleaseConflict, match="with the digest of If-Match"):
        RayServiceConfig(resource, "0" * 64).read()
    same = RayServiceConfig(resource, config.read().digest)
    with same.locked("split"):
        same.replace(same.read(), with_weights(text, {"1": 90, "2": 10}))
    assert same.read().weights == {"1": 90, "2": 10}
    with same.locked("split"), pytest.raises(SettingsError, match="did you mean"):
        same.replace(same.read(), text.replace("max_ongoing_requests", "max_ongoing_request", 1))
    empty = {"spec": {"serveConfigV2": ""}}
    server.merge("rayservices", "plant", "diagnostics", empty, "kubectl-edit")
    with pytest.raises(SettingsError, match="apply the manifests"):
        config.read()


def test_attempts_to_write_pause_for_half_a_second_to_five():
    state = RetryCallState(Retrying(), None, (), {})
    for state.attempt_number in range(1, 12):
        assert 0.5 <= RayServiceServe.retry_wait(state) <= 5.0
    assert RayServiceServe.retry_wait(state) == 5.0


def test_nothing_is_changed_while_the_ray_cluster_is_replaced(
    server: ApiServer, config: RayServiceConfig
):
    now = service(server)
    now["status"] = {
        "activeServiceStatus": {"rayClusterName": "cluster-1"},
        "pendingServiceStatus": {"rayClusterName": "cluster-2"},
    }
    server.update("rayservices", "plant", "diagnostics", now, "kuberay", "status")
    with (
        pytest.raises(ReleaseConflict, match=r"replaces 'cluster-1' by 'cluster-2': try again"),
        config.locked("split"),
    ):
        pass
    assert server.get("leases", "plant", "diagnostics-release")["spec"]["holderIdentity"] == ""
