"""The client of the API server: credentials that rotate, refusals, outages and watches."""

import asyncio
import contextlib
import re
import time
from pathlib import Path
from threading import Timer

import pytest
import yaml

from app.core.errors import ReleaseError, ReleasesElsewhere, ReleasesUnavailable, SettingsError
from app.core.settings import Settings
from app.release.kubernetes import api as kubernetes
from app.release.kubernetes.api import Access, KubernetesApi, find_access
from app.release.kubernetes.resource import RayService, RayServiceResource
from tests.app.release.kubernetes.conftest import RIGHTS
from tests.certificates import Certificates, make_certificates
from tests.kubernetes_api import ApiServer, api_server, ray_service
from tests.system import PROJECT_DIR

SERVICES = "/apis/ray.io/v1/namespaces/plant/rayservices"
SERVICE = f"{SERVICES}/diagnostics"


def test_token_and_authority_of_the_service_account_are_read_again_when_they_rotate(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kubernetes, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setattr(kubernetes, "RETRY_S", 0.0)
    other = tmp_path / "other"
    other.mkdir()
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    with api_server(certificates.server) as server:
        server.allow("first", **RIGHTS)
        server.create("rayservices", "plant", ray_service("a: 1"), "kubectl")
        host, _, port = server.url.removeprefix("https://").partition(":")
        found = find_access(
            Settings(), {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        )
        assert found == Access(server.url, token, authority)
        api = KubernetesApi(found)

        with pytest.raises(SettingsError, match="expected the token of the API server in"):
            api.send("GET", SERVICE)
        token.write_text("first\n")
        with pytest.raises(SettingsError, match="expected certificates"):
            api.send("GET", SERVICE)
        authority.write_bytes(make_certificates(other).authority.read_bytes())
        with pytest.raises(ReleaseError, match="CERTIFICATE_VERIFY_FAILED"):
            api.send("GET", SERVICE)
        authority.write_bytes(certificates.authority.read_bytes())
        assert api.send("GET", SERVICE).status == 200

        server.rights = {"second": server.rights["first"]}
        with pytest.raises(ReleasesElsewhere, match=r"status 401, Unauthorized: it may have exp"):
            api.send("GET", SERVICE)
        token.write_text("second\n")
        assert api.send("GET", SERVICE).status == 200


def test_address_of_a_pod_may_be_of_ipv6(tmp_path: Path):
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert find_access(Settings(), environment).url == "https://[fd00::1]:6443"


def test_missing_or_unsafe_address_is_refused():
    with pytest.raises(SettingsError, match="run `kubectl proxy`"):
        find_access(Settings(), {})
    for url in ("http://10.0.0.1:8080", "http://localhost.example.com"):
        with pytest.raises(SettingsError, match="expected https://"):
            find_access(Settings(kubernetes_url=url), {})
    proxy = find_access(Settings(kubernetes_url="http://127.0.0.1:8001/"), {})
    assert proxy == Access("http://127.0.0.1:8001", None, None)


def test_refusals_say_what_to_do(server: ApiServer, resource: RayServiceResource):
    with pytest.raises(ReleasesElsewhere, match=r'"diagnostics" not found: correct HYDRAULIC_RAY'):
        resource.read()
    server.create("rayservices", "plant", ray_service("a: 1"), "kubectl")
    server.allow("releaser", rayservices="get")
    found = resource.read()
    with pytest.raises(ReleasesElsewhere, match=r"cannot patch .*bind the Role of docs/how-to"):
        resource.apply("b: 1", found.metadata.resource_version, force=False)


def test_refused_or_unexpected_answers_say_what_to_do(server: ApiServer):
    server.create("rayservices", "plant", ray_service("a: 1"), "kubectl")
    without_token = RayServiceResource(KubernetesApi(Access(server.url, None, None)), "plant/x")
    with pytest.raises(ReleasesElsewhere, match="set HYDRAULIC_KUBERNETES_TOKEN_FILE") as caught:
        without_token.read()
    assert "None" not in caught.value.message
    server.down = True
    impatient = RayServiceResource(KubernetesApi(Access(server.url, None, None), 0.1), "plant/x")
    with pytest.raises(ReleasesUnavailable, match="shutting down: repeat the command later"):
        impatient.read()


async def test_object_of_a_watch_that_is_something_else_is_an_error(
    server: ApiServer, resource: RayServiceResource
):
    server.create("rayservices", "plant", ray_service("a: 1"), "kubectl")
    server.allow("releaser", rayservices="get watch")
    changes = resource.changes()
    await anext(changes)
    broken = {"spec": {"serveConfigV2": ["a list"]}}
    server.merge("rayservices", "plant", "diagnostics", broken, "kubectl-edit")
    with pytest.raises(ReleaseError, match="expected a RayService of the Kubernetes API server"):
        async with asyncio.timeout(30):
            await anext(changes)


def test_something_else_than_kubernetes_is_an_error(text: str, dashboard: str):
    answering_all = Access(f"{dashboard}/health/ready?", None, None)
    other = RayServiceResource(KubernetesApi(answering_all), "plant/diagnostics")
    with pytest.raises(ReleaseError, match="expected a RayService of the Kubernetes API server"):
        other.read()


def test_documented_role_has_the_rights_of_these_tests():
    page = (PROJECT_DIR / "docs/how-to/release.md").read_text()
    (block,) = re.findall(r"```yaml\n(apiVersion: rbac.*?)```", page, re.DOTALL)
    verbs: dict[str, list[str]] = {}
    for rule in yaml.safe_load(block)["rules"]:
        verbs.setdefault(rule["resources"][0], []).extend(rule["verbs"])
    assert {name: " ".join(given) for name, given in verbs.items()} == RIGHTS


def test_invalid_object_or_field_is_refused_as_kubernetes_does(server: ApiServer):
    api = KubernetesApi(Access(server.url, None, None))
    server.rights[""] = {"rayservices create", "leases create", "leases update", "leases get"}
    body = {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": {"name": "x"}, "spec": {}}
    with pytest.raises(ReleaseError, match=r"status 422, .*spec.rayClusterConfig: Required value"):
        api.send("POST", SERVICES, body=body)
    body["spec"] = {"rayClusterConfig": {}, "serveConfig": ""}
    with pytest.raises(ReleaseError, match=r'status 400, .*unknown field "spec.serveConfig"'):
        api.send("POST", SERVICES, body=body, params={"fieldValidation": "Strict"})
    leases = "/apis/coordination.k8s.io/v1/namespaces/plant/leases"
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "x"},
        "spec": {"leaseDurationSeconds": 15},
    }
    assert api.send("POST", leases, body=lease).status == 201
    assert api.send("POST", leases, body=lease, accepts={409}).status == 409
    with pytest.raises(ReleaseError, match=r"resourceVersion.*must be specified for an update"):
        api.send("PUT", f"{leases}/x", body=lease)
    lease["metadata"] = {"name": "x", "resourceVersion": "1"}
    with pytest.raises(ReleaseError, match=r"status 409, .*the object has been modified"):
        api.send("PUT", f"{leases}/x", body=lease)


def test_outage_is_waited_for_and_a_longer_one_is_reported(
    server: ApiServer, resource: RayServiceResource, monkeypatch: pytest.MonkeyPatch
):
    server.create("rayservices", "plant", ray_service("a: 1"), "kubectl")
    server.down = True
    ending = Timer(0.5, lambda: setattr(server, "down", False))
    ending.start()
    assert resource.read().spec.text == "a: 1"
    ending.join()
    server.down = True
    monkeypatch.setattr(kubernetes, "RETRY_S", 0.2)
    with pytest.raises(ReleaseError, match="status 503, apiserver is shutting down"):
        resource.read()
    nowhere = KubernetesApi(Access("http://127.0.0.1:9", None, None))
    with pytest.raises(ReleaseError, match="correct HYDRAULIC_KUBERNETES_URL"):
        nowhere.send("GET", SERVICES)


async def test_watch_yields_each_change_over_bookmarks_outages_and_a_forgotten_history(
    server: ApiServer, resource: RayServiceResource, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kubernetes, "REWATCH_S", 0.05)
    server.create("rayservices", "plant", ray_service("a: 0"), "kubectl")
    async with contextlib.aclosing(resource.changes()) as changes:

        async def following() -> RayService:
            async with asyncio.timeout(20):
                return await anext(changes)

        assert (await following()).spec.text == "a: 0"
        write(server, "a: 1")
        assert (await following()).spec.text == "a: 1"
        server.create("rayservices", "plant", ray_service("", "another"), "kubectl")

        # ends the watch; it goes on from the bookmark, or is sent the object again
        server.down = True
        await asyncio.sleep(0.2)
        write(server, "a: 2")
        server.compact()
        server.down = False
        found = (await following()).spec.text
        assert found == "a: 2"
        write(server, "a: 3")
        while found != "a: 3":  # a watch begun before the outage may repeat one state
            found = (await following()).spec.text
        server.delete("rayservices", "plant", "diagnostics")
        with pytest.raises(ReleasesElsewhere, match=r"found it deleted|not found"):
            await following()


async def test_version_older_than_the_history_is_gone(
    server: ApiServer, resource: RayServiceResource
):
    server.create("rayservices", "plant", ray_service("a: 0"), "kubectl")
    version = server.get("rayservices", "plant", "diagnostics")["metadata"]["resourceVersion"]
    write(server, "a: 1")
    server.compact()
    api = KubernetesApi(Access(server.url, None, None))
    server.rights[""] = {"rayservices watch"}
    params = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "1"}
    found = api.send("GET", SERVICES, params=params).body
    assert (b'"type": "ERROR"' in found, b'"code": 410' in found) == (True, True)


def test_bookmark_is_sent_for_changes_of_others(server: ApiServer):
    server.create("rayservices", "plant", ray_service("", "another"), "kubectl")
    api = KubernetesApi(Access(server.url, None, None))
    server.rights[""] = {"rayservices watch"}
    began = time.monotonic()
    params = {
        "watch": "true",
        "resourceVersion": "100",
        "timeoutSeconds": "0.2",
        "allowWatchBookmarks": "true",
        "fieldSelector": "metadata.name=diagnostics",
    }
    found = api.send("GET", SERVICES, params=params).body
    assert (found.count(b"BOOKMARK"), found.count(b"ADDED")) == (1, 0)
    assert time.monotonic() - began >= 0.2


def write(server: ApiServer, text: str) -> None:
    """Change the text as `kubectl edit` does."""
    given = {"spec": {"serveConfigV2": text}}
    server.merge("rayservices", "plant", "diagnostics", given, "kubectl-edit")
