"""Fixtures shared by all tests: databases, the whole system and a collector of spans.

A test's database is a copy of a template, so no test sees another's data. Servers are started once
a session, by the first test that needs them.
"""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, settings

from app.core.file_locks import is_held
from app.schemas.equipment import Equipment
from app.store.embedded.server import ensure_embedded, release_embedded
from app.store.embedded.supervisor import SUPERVISOR_LOCK
from app.store.store import Store
from tests.certificates import Certificates, make_certificates
from tests.collector import Collector, collecting
from tests.machines import make_machine
from tests.system import System, running

# A busy machine is no finding: examples have no deadline, and generating them may be slow.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
# The long form of the tests in tests/fuzz: `make fuzz`.
settings.register_profile("fuzz", settings.get_profile("suite"), max_examples=10_000)
# Shells start background jobs with SIGINT ignored, and processes started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

TIMESCALE_DSN = os.environ.get("TEST_TIMESCALE_DSN")
_TEMPLATE = f"hydraulic_template_{os.getpid()}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Distribute whole files over the workers of `make test`."""
    from tests.scheduling import FileScheduling

    config.option.loadscopereorder = False
    return FileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest groups where several workers run; one runs the files by name."""
    if hasattr(config, "workerinput"):
        from tests.scheduling import place_of

        items.sort(key=lambda item: place_of(item.nodeid))


def pytest_report_header() -> str:
    """Return the edition of the database that the tests run on."""
    if TIMESCALE_DSN:
        return "database: TimescaleDB at TEST_TIMESCALE_DSN"
    return "database: embedded PostgreSQL; set TEST_TIMESCALE_DSN to test TimescaleDB"


def with_database(dsn: str, name: str) -> str:
    """Return the DSN of another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


async def run_sql(dsn: str, *statements: str) -> None:
    """Run statements outside a transaction."""
    session = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await session.execute(statement)
    finally:
        await session.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate of localhost and the authority that signed it."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Collects the spans of the whole system."""
    with collecting() as started:
        yield started


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[System]:
    """The whole system, shared by all tests; the last of them, `test_stop.py`, ends it.

    It traces only requests whose `traceparent` header says that they are sampled.
    """
    variables = {"RAY_SERVE_TRACING_SAMPLING_RATIO": "0", "OTEL_BSP_SCHEDULE_DELAY": "500"}
    directory = tmp_path_factory.mktemp("system")
    with running(directory, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **variables) as started:
        yield started


@pytest.fixture
def client(system: System) -> Iterator[httpx.Client]:
    """A client of the whole system."""
    with system.client() as opened:
        yield opened


class SharedRay:
    """A local Ray cluster that runs from the first test that uses it to the first that may not."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._is_running = False

    def start(self) -> None:
        """Start it with the settings of a training, unless it runs."""
        from train.data.session import ray_session

        if not self._is_running:
            self._running.enter_context(ray_session(2))
            self._is_running = True

    def stop(self) -> None:
        """Stop it if it runs."""
        self._running.close()
        self._is_running = False


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[SharedRay]:
    """A cluster for all tests, not started yet; starting one takes some ten seconds of CPU time."""
    shared = SharedRay()
    yield shared
    shared.stop()


@pytest.fixture
def local_ray(shared_ray: SharedRay) -> None:
    """Connect this process to the shared cluster."""
    shared_ray.start()


@pytest.fixture
def without_ray(shared_ray: SharedRay) -> None:
    """Leave this process without a cluster, so that the test sees one start and end."""
    shared_ray.stop()


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """DSN of a server with a migrated template database."""
    with tempfile.TemporaryDirectory(
        prefix="hydraulic-test-", ignore_cleanup_errors=True
    ) as parent:
        directory = Path(parent) / "postgres"
        dsn = TIMESCALE_DSN or ensure_embedded(directory, grace_s=0.2)
        if TIMESCALE_DSN is None:
            # each copy and each removal of a database would wait for the disk
            asyncio.run(run_sql(dsn, "alter system set fsync = off", "select pg_reload_conf()"))
        asyncio.run(_make_template(dsn))
        yield dsn
        asyncio.run(run_sql(dsn, f"drop database {_TEMPLATE}"))
        release_embedded(directory)
        while TIMESCALE_DSN is None and is_held(directory / SUPERVISOR_LOCK):
            time.sleep(0.02)


async def _make_template(dsn: str) -> None:
    await run_sql(dsn, f"create database {_TEMPLATE}")
    store = Store(with_database(dsn, _TEMPLATE))
    await store.migrate()
    await store.close()


@pytest.fixture
async def database_dsn(server_dsn: str) -> AsyncIterator[str]:
    """DSN of a migrated database for this test alone."""
    name = f"hydraulic_test_{uuid4().hex}"
    if TIMESCALE_DSN is None:
        await run_sql(server_dsn, f"create database {name} template {_TEMPLATE}")
    else:
        # TimescaleDB's background workers use the template, and a database in use can't be copied
        await run_sql(server_dsn, f"create database {name}")
        store = Store(with_database(server_dsn, name))
        await store.migrate()
        await store.close()
    yield with_database(server_dsn, name)
    await run_sql(server_dsn, f"drop database {name} with (force)")


@pytest.fixture
async def store(database_dsn: str) -> AsyncIterator[Store]:
    """A store on a migrated database for this test alone."""
    opened = Store(database_dsn)
    yield opened
    await opened.close()


@pytest.fixture
def machine() -> Equipment:
    """A machine with three sensors and a grid of one second."""
    return make_machine()
