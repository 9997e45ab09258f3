"""A RayService on an API server of the tests, and an operator that applies it to a fake cluster."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml

from app.core.settings import Settings
from app.release.history import Order
from app.release.kubernetes.api import KubernetesApi, find_access
from app.release.kubernetes.rayservice import RayServiceConfig
from app.release.kubernetes.resource import RayServiceResource
from app.release.operations import Releases
from app.release.target import open_config, open_serve
from tests.app.release.fake_cluster import FakeCluster, MemoryHistory, service_api, serving
from tests.kuberay import TOKEN, Operator, operating
from tests.kubernetes_api import ApiServer, api_server, ray_service

PLACE = "plant/diagnostics"
RELEASER = "releaser"
RIGHTS = {"rayservices": "get watch patch", "leases": "get update create"}
"""Those of the Role in docs/how-to/release.md."""


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as started:
        started.allow(RELEASER, **RIGHTS)
        started.allow(TOKEN, rayservices="get", rayservices_status="update")
        yield started


@pytest.fixture
def settings(server: ApiServer, tmp_path: Path) -> Settings:
    token = tmp_path / "token"
    token.write_text(RELEASER + "\n")
    return Settings(
        rayservice=PLACE,
        kubernetes_url=server.url,
        kubernetes_token_file=token,
        var_dir=tmp_path / "var",
    )


@pytest.fixture
def text(path: Path, server: ApiServer, cluster: FakeCluster) -> Iterator[str]:
    """The text that kubectl applied, and that the fake cluster runs on one port of this machine."""
    with serving(cluster) as port:
        found = path.read_text().replace("port: 8000", f"port: {port}")
        server.create("rayservices", "plant", ray_service(found), "kubectl")
        yield found


@pytest.fixture
def dashboard(text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of the fake cluster, where releases look for the dashboard."""
    url = f"http://127.0.0.1:{yaml.safe_load(text)['http_options']['port']}"
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", url)
    return url


@pytest.fixture
def operator(server: ApiServer, dashboard: str, cluster: FakeCluster) -> Iterator[Operator]:
    with operating(Operator(server.url, PLACE, dashboard)) as running:
        yield running


@pytest.fixture
def resource(settings: Settings) -> RayServiceResource:
    return RayServiceResource(KubernetesApi(find_access(settings, {})), PLACE)


@pytest.fixture
def config(resource: RayServiceResource, text: str) -> RayServiceConfig:
    return RayServiceConfig(resource)


def stored(server: ApiServer) -> str:
    """Return the text in the resource."""
    found: str = server.get("rayservices", "plant", "diagnostics")["spec"]["serveConfigV2"]
    return found


@pytest.fixture
async def releases(
    settings: Settings,
    operator: Operator,
    cluster: FakeCluster,
    history: MemoryHistory,
    lines: list[str],
) -> AsyncIterator[Releases]:
    """The operations, once KubeRay has applied the text."""
    config, serve = open_config(settings), open_serve(settings, None, lambda: "unused")
    order = Order("ann", "a reason")
    async with serve:
        await serve.apply(None)
        yield Releases(
            config, serve, service_api(cluster), history, order, lines.append, settings.var_dir
        )
