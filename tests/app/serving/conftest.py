"""The service in one process: real store, graph builder and networks, called without Ray."""

from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import httpx
import pytest
from cachetools import LRUCache

from app.checkpoint.files import Checkpoint, load
from app.checkpoint.predictor import Opened, open_predictor
from app.core.settings import Settings
from app.core.text_metrics import TEXT_FILES
from app.demo.rig.equipment import rig_equipment
from app.diagnosis.pipeline import ScoreResult
from app.release.service import ReleaseService
from app.serving.graph_builder.deployment import GraphBuilder
from app.serving.http.app import build_api
from app.serving.http.auth import Authenticator
from app.serving.http.rate_limits import RateLimiter
from app.serving.ingress.baselines import BaselineService
from app.serving.ingress.batch import DiagnosisParts
from app.serving.ingress.deployment import Service, utc_now
from app.serving.ingress.diagnoses import Diagnostics
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.label_store import LabelStore
from app.serving.ingress.maintenance_log import MaintenanceLog
from app.serving.ingress.metrics_gatherer import MetricsGatherer
from app.serving.ingress.quotas import Quotas
from app.serving.ingress.readings import ReadingService
from app.serving.ingress.retention import Retention
from app.serving.ingress.service_facts import ServiceFacts
from app.serving.ingress.status import Status
from app.serving.ingress.traffic import Release, Traffic
from app.serving.ingress.version_router import VersionRouter
from app.serving.model_server import deployment as model_server
from app.serving.model_server.deployment import ModelServer
from app.serving.observability.database_metrics import DatabaseMetrics
from app.serving.observability.exposition import ReplicaText
from app.serving.observability.metrics import Metrics
from app.serving.rpc.client import DeploymentClient
from app.serving.rpc.messages import BuildAnswer, BuildCall, ScoreCall, VersionDescription
from app.serving.rpc.replicas import DeploymentState
from app.store.keys import SCOPES
from app.store.store import Store
from tests.network import small_checkpoint


class LocalClient(DeploymentClient):
    """Calls deployments in this process; an application in `broken` raises when it is called."""

    def __init__(self, servers: dict[str, ModelServer]) -> None:
        self.servers = servers
        self.broken: set[str] = set()
        self.scored: list[str] = []
        self.builder = GraphBuilder()
        self._delivered: LRUCache[str, bool] = LRUCache(100)

    def _server(self, application: str) -> ModelServer:
        if application in self.broken:
            raise RuntimeError(f"{application} is broken")
        return self.servers[application]

    async def send_build(self, call: BuildCall) -> BuildAnswer:
        return await self.builder.build(call)

    async def score(self, application: str, call: ScoreCall) -> ScoreResult:
        self.scored.append(application)
        return await self._server(application).score(call)

    async def describe(self, application: str) -> VersionDescription:
        return await self._server(application).describe()

    async def probe(self, application: str) -> None:
        await self._server(application).probe()


class RemoteError(RuntimeError):
    """Ray's error for one of another process: its text is a traceback, the error is `cause`."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("ray::Model.score() (pid=1, ip=10.0.0.7)\\n  File /secret/path.py")
        self.cause = cause


class LocalReplicas:
    """The builder and the model servers of a local client, one replica of each deployment.

    A deployment in `stuck` does not answer in time.
    """

    def __init__(self, client: LocalClient) -> None:
        self._client = client
        self.stuck: set[str] = set()

    async def deployments(self) -> list[DeploymentState]:
        names = [
            ("diagnostics", "GraphBuilder"),
            *((each, "Model") for each in self._client.servers),
        ]
        return [DeploymentState(*name, True, {"RUNNING": 1}) for name in names]

    async def metrics_of(self, state: DeploymentState, limit_s: float) -> list[ReplicaText]:
        if state.application in self.stuck:
            raise TimeoutError
        if state.deployment == "GraphBuilder":
            return [await self._client.builder.metrics_text()]
        return [await self._client.servers[state.application].metrics_text()]

    async def close(self) -> None:
        for each in (self._client.builder, *self._client.servers.values()):
            await each.metrics.close()


def split(first: float, second: float) -> Traffic:
    """Return traffic between versions 1 and 2."""
    return Traffic(
        releases=(
            Release(version="1", application="model-1", weight=first),
            Release(version="2", application="model-2", weight=second),
        )
    )


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("checkpoints")
    return {f"model-{version}": small_checkpoint(directory, version) for version in ("1", "2")}


@cache
def loaded(directory: Path) -> Checkpoint:
    """Load a checkpoint, which no test changes, once for all tests."""
    return load(directory)


@cache
def opened_network(directory: Path) -> Opened:
    """Open a checkpoint's network, which keeps nothing of a test, once for all tests."""
    return open_predictor(loaded(directory), "cpu", 1)


@pytest.fixture
def local(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> LocalClient:
    """A client of model servers of this test alone; opening their networks is most of its time."""
    with monkeypatch.context() as patched:
        patched.setattr(model_server, "load", loaded)
        patched.setattr(
            model_server,
            "open_predictor",
            lambda checkpoint, *_: opened_network(checkpoint.directory),
        )
        return LocalClient({name: ModelServer(path, "cpu") for name, path in checkpoints.items()})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def versions(local: LocalClient, metrics: Metrics) -> VersionRouter:
    made = VersionRouter(local, metrics, timeout_s=5.0)
    made.set_traffic(split(100, 0))
    return made


@pytest.fixture
async def local_replicas(local: LocalClient) -> AsyncIterator[LocalReplicas]:
    made = LocalReplicas(local)
    yield made
    await made.close()


@pytest.fixture
def release_service(store: Store, tmp_path: Path) -> ReleaseService:
    """A release service whose configuration file is missing."""
    return ReleaseService(
        Settings(serve_config=tmp_path / "none.yaml"), store, lambda: "http://127.0.0.1:1"
    )


@pytest.fixture
async def service(
    store: Store,
    versions: VersionRouter,
    metrics: Metrics,
    release_service: ReleaseService,
    local_replicas: LocalReplicas,
    tmp_path: Path,
) -> AsyncIterator[Service]:
    async def prepare() -> None:
        await store.put_equipment(rig_equipment())

    quotas = Quotas(store)
    registry = EquipmentRegistry(store, router=versions, quotas=quotas)
    diagnostics = Diagnostics(DiagnosisParts(store, registry, versions, metrics, utc_now))
    status = Status(store, versions, registry, prepare)
    DatabaseMetrics(metrics).watch(store)
    made = Service(
        authenticator=Authenticator(store.find_key),
        registry=registry,
        baselines=BaselineService(store, registry, utc_now),
        labels=LabelStore(store, registry, utc_now),
        maintenance=MaintenanceLog(store, registry, utc_now, diagnostics.note_maintenance),
        readings=ReadingService(store, registry, metrics, quotas, tmp_path / "spool", utc_now),
        router=versions,
        diagnostics=diagnostics,
        status=status,
        retention=Retention(store, utc_now),
        limiter=RateLimiter("test", store.exchange_rate_counts, store.drop_rate_counts),
        quotas=quotas,
        release_service=release_service,
        metrics=metrics,
        gatherer=MetricsGatherer(
            metrics,
            ServiceFacts(status, versions, store, tmp_path),
            local_replicas,
            tmp_path / TEXT_FILES,
        ),
        store=store,
    )
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def client(service: Service, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a key of all scopes, straight to the ASGI application."""
    key = (await store.create_key("test", SCOPES)).secret
    transport = httpx.ASGITransport(app=build_api(service))
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as opened:
        yield opened
