"""Carries out releases for the admin routes of an ingress replica, as `hydraulic release` does.

Each request runs in a thread with its own event loop, since parsing and editing the file would
delay diagnoses. Checkpoints are verified and aliases set in subprocesses, which import the model
and MLflow.
Invariant: a release that has started runs to its end when its caller disconnects.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

from app.core.errors import (
    HydraulicDiagnosticsError,
    ReleaseConflict,
    ReleaseError,
    ReleasesElsewhere,
    SettingsError,
)
from app.core.settings import Settings
from app.release import uploads
from app.release.catalogue import Catalogue
from app.release.clients.service_api import ServiceApi, service_url
from app.release.config.file import ConfigFile, ReadConfig
from app.release.guards import parse_guards
from app.release.history import Order
from app.release.operations import Releases
from app.release.promotion import carry_out, checked_promotion
from app.release.source import find_placement_in_subprocess, new_aliases, set_aliases_in_subprocess
from app.release.target import ConfigStore, ServeTarget, open_config, open_serve
from app.release.trainings import Trainings
from app.release.view import differing_applications
from app.schemas.releases import (
    PromoteOrder,
    RegisteredVersion,
    ReleaseAnswer,
    UploadAnswer,
)
from app.serving.http.routes.releases import ReleaseRequest
from app.serving.observability.dashboard import address_of_cluster, dashboard_of_cluster
from app.store.releases import ReleaseEvent
from app.store.store import Store

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 60.0
TIMEOUT_SHARE = 0.7
"""Share of `request_timeout_s` after which the caller receives the state `running`."""
CLOSE_S = 5.0
SETTLE_S = 2.0

Report = Callable[[str], None]
Work = Callable[[Releases, ServiceApi, Report], Awaitable[None]]
"""Changes releases; the function receives each line of the result."""


class Long(NamedTuple):
    """What may take longer than a request: a replica runs one of each kind at a time."""

    kind: Literal["deployment", "promotion"]
    version: str


class ReleaseService:
    """Carries out releases for the ingress.

    Args:
        settings: Name the file and the cache.
        store: Holds the history; used from the event loop of the requests.
        dashboard: Returns the address of Ray's dashboard; may block.
        cluster: Returns the address of the cluster.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        dashboard: Callable[[], str],
        cluster: Callable[[], str] = address_of_cluster,
    ) -> None:
        self._settings = settings
        self._store = store
        self._dashboard = dashboard
        self._catalogue = Catalogue(settings)
        self.trainings = Trainings(settings, store, dashboard, cluster)
        self._running: dict[asyncio.Task[ReleaseAnswer], _ReleaseTask] = {}
        self._alias_tasks: set[asyncio.Task[None]] = set()
        self._uploading = asyncio.Lock()
        self._uploads: dict[str, asyncio.Task[UploadAnswer]] = {}

    async def split(
        self, request: ReleaseRequest, weights: Mapping[str, float], design: str | None
    ) -> ReleaseAnswer:
        """Set the weights, see `Releases.split`."""
        return await self._run(request, lambda releases, *_: releases.split(weights, design))

    async def deploy(
        self, request: ReleaseRequest, version: str, device: str | None
    ) -> ReleaseAnswer:
        """Verify a version and add it with weight 0, see `Releases.deploy`."""

        async def work(releases: Releases, *_: object) -> None:
            await releases.deploy(
                await asyncio.to_thread(find_placement_in_subprocess, version, device)
            )

        return await self._run(request, work, Long("deployment", version))

    async def rollback(self, request: ReleaseRequest) -> ReleaseAnswer:
        """Restore the previous weights, see `Releases.rollback`."""
        return await self._run(request, lambda releases, *_: releases.rollback())

    async def promote(
        self, request: ReleaseRequest, version: str, order: PromoteOrder
    ) -> ReleaseAnswer:
        """Raise a version's weight in steps, see `app.release.promotion`.

        A replica that stops meanwhile ends the promotion, which restores the weights from before.
        """
        guards = parse_guards(",".join(order.guards)) if order.guards else ()
        promotion = checked_promotion(version, order.steps, order.hold_s, guards, order.design)

        async def work(releases: Releases, service: ServiceApi, report: Report) -> None:
            await carry_out(promotion, releases, service, report, dry_run=request.dry_run)

        return await self._run(request, work, Long("promotion", version))

    async def shadow(
        self, request: ReleaseRequest, version: str, *, enabled: bool
    ) -> ReleaseAnswer:
        """Start or stop a shadow, see `Releases.shadow`."""
        return await self._run(request, lambda releases, *_: releases.shadow(version, on=enabled))

    async def retire(self, request: ReleaseRequest, version: str) -> ReleaseAnswer:
        """Remove a version without weight, see `Releases.retire`."""
        return await self._run(request, lambda releases, *_: releases.retire(version))

    async def registered(self) -> list[RegisteredVersion]:
        """Return the versions that can be deployed, newest first, see `Catalogue`."""
        return await self._catalogue.versions()

    async def upload(self, actor: str, body: AsyncIterator[bytes]) -> UploadAnswer:
        """Store an archive, verify it and register its checkpoint.

        Args:
            actor: name of the API key, for the log.
            body: of the request; it goes to a file as it arrives.

        Raises:
            InputError: it is no archive of a checkpoint, or the checkpoint can't be used.
            LimitExceeded: it is too large.
            ReleaseConflict: this replica is receiving another one.
            HydraulicDiagnosticsError: the registry or the database does not answer.
        """
        started = time.monotonic()
        if self._uploading.locked():
            raise ReleaseConflict(
                "expected no other upload in progress, found one: try again when it is done"
            )
        async with self._uploading:
            archive = await uploads.receive(body, self._settings.var_dir)
            digest = await asyncio.to_thread(uploads.digest_of, archive)
            task = self._uploads.get(digest)
            if task is None:
                task = asyncio.create_task(uploads.register(archive, self._settings))
                self._uploads[digest] = task
                task.add_done_callback(partial(self._on_upload, digest, actor))
            else:
                archive.unlink()
        left_s = TIMEOUT_SHARE * await self._timeout_s() - (time.monotonic() - started)
        done, _ = await asyncio.wait({task}, timeout=max(1.0, left_s))
        if not done:
            return UploadAnswer(state="running")
        return task.result()

    def _on_upload(self, digest: str, actor: str, task: asyncio.Task[UploadAnswer]) -> None:
        self._uploads.pop(digest)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            version = task.result().version
            logger.info("checkpoint uploaded", extra={"actor": actor, "version": version})
        elif isinstance(error, HydraulicDiagnosticsError):
            logger.warning("upload refused", extra={"actor": actor, "reason": error.message})
        else:
            logger.error("upload failed", exc_info=error)

    async def _timeout_s(self) -> float:
        """Return how long a request may take."""
        try:
            read = await asyncio.to_thread(lambda: open_config(self._settings).read())
        except (SettingsError, ReleaseError):  # another node has the file
            return DEFAULT_TIMEOUT_S
        return read.config.http_options.request_timeout_s or DEFAULT_TIMEOUT_S

    async def close(self) -> None:
        """Cancel the running releases; they revert what they changed."""
        for upload in list(self._uploads.values()):
            upload.cancel()
        for release in self._running.values():
            release.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_S)

    async def _run(
        self,
        request: ReleaseRequest,
        work: Work,
        long: Long | None = None,
    ) -> ReleaseAnswer:
        """Run a release; return when it is done, or shortly before the request times out."""
        history = _ThreadSafeHistory(self._store, asyncio.get_running_loop())
        release = _ReleaseTask(self._settings, history, self._dashboard, request, work, long)
        read = await asyncio.to_thread(lambda: release.file().read())
        for other in (item.long for item in self._running.values()):
            if long is not None and other is not None and other.kind == long.kind:
                raise ReleaseConflict(
                    f"expected no other {long.kind} in progress, found that of version "
                    f"{other.version}: try again when it is done"
                )
        task = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(release.run())))
        self._running[task] = release
        task.add_done_callback(self._on_done)
        timeout_s = read.config.http_options.request_timeout_s or DEFAULT_TIMEOUT_S
        done, _ = await asyncio.wait({task}, timeout=TIMEOUT_SHARE * timeout_s)
        return task.result() if done else await asyncio.to_thread(release.answer, "running")

    def _on_done(self, task: asyncio.Task[ReleaseAnswer]) -> None:
        release = self._running.pop(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, HydraulicDiagnosticsError):
            logger.warning("release refused", extra={"reason": error.message})
        elif error is not None:
            logger.error("release failed", exc_info=error)
        elif release.aliases:
            setting = asyncio.to_thread(
                set_aliases_in_subprocess, release.aliases, self._settings, logger.warning
            )
            alias_task = asyncio.create_task(setting)
            self._alias_tasks.add(alias_task)
            alias_task.add_done_callback(self._alias_tasks.discard)


class _ThreadSafeHistory:
    """The store's release history, called from another thread's event loop."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    async def record_release(
        self,
        version: str,
        action: str,
        weights: Mapping[str, float],
        designs: Mapping[str, Mapping[str, float]] | None = None,
        *,
        actor: str,
        reason: str,
    ) -> ReleaseEvent:
        """Add an event."""
        call = self._store.record_release(
            version, action, weights, designs, actor=actor, reason=reason
        )
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

    async def list_releases(self, limit: int = 100) -> list[ReleaseEvent]:
        """Return the newest events, newest first."""
        call = self._store.list_releases(limit)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))


@dataclass(slots=True)
class _ReleaseTask:
    """One release; created in the ingress's thread, run in its own."""

    settings: Settings
    history: _ThreadSafeHistory
    dashboard: Callable[[], str]
    request: ReleaseRequest
    work: Work
    long: Long | None
    lines: list[str] = field(default_factory=list)
    aliases: Mapping[str, str] = field(default_factory=dict)
    running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    def file(self, expected_digest: str | None = None) -> ConfigStore:
        """Return the RayService, or the file of this node.

        Raises:
            ReleasesElsewhere: It does not exist here.
        """
        path = self.settings.serve_config
        if self.settings.rayservice is None and not path.is_file():
            raise ReleasesElsewhere(
                f"expected the Serve configuration as '{path}' on the ingress's node, found none: "
                "set HYDRAULIC_SERVE_CONFIG, or use `hydraulic release` on the machine that "
                "holds the file"
            )
        return open_config(self.settings, None, expected_digest)

    async def run(self) -> ReleaseAnswer:
        """Run the release.

        Raises:
            HydraulicDiagnosticsError: It was refused; what ran before continues.
        """
        task = asyncio.create_task(self._run())
        self.running = (asyncio.get_running_loop(), task)
        await task
        return self.answer("would_change" if self.request.dry_run else "done")

    def cancel(self) -> None:
        """Cancel the release, from any thread."""
        if self.running is not None:
            loop, task = self.running
            loop.call_soon_threadsafe(task.cancel)

    def answer(self, state: Literal["done", "running", "would_change"]) -> ReleaseAnswer:
        """Return the state of the release and of the file."""
        now = self.file().read()
        return ReleaseAnswer(
            state=state,
            said=tuple(self.lines),
            weights=now.weights,
            designs=now.split.designs,
            digest=now.digest,
        )

    async def _run(self) -> None:
        request = self.request
        file = self.file(request.expected_digest)
        serve = await asyncio.to_thread(open_serve, self.settings, None, self.dashboard)
        service = ServiceApi(service_url(file.read().config), request.key.get_secret_value())
        async with serve, service:
            before = await _read_running(file, serve)
            order = Order(request.actor, request.reason, request.dry_run)
            report, var_dir = self.lines.append, self.settings.var_dir
            releases = Releases(file, serve, service, self.history, order, report, var_dir)
            await self.work(releases, service, report)
            if not request.dry_run:
                after = releases.read().weights
                is_deployment = self.long is not None and self.long.kind == "deployment"
                deployed = self.long.version if self.long and is_deployment else None
                self.aliases = new_aliases(before.weights, after, deployed)


async def _read_running(file: ConfigStore, serve: ServeTarget) -> ReadConfig:
    """Read the file, and check that it is the one that runs.

    Raises:
        ReleaseConflict: It differs from what runs; a concurrent change is waited for.
    """
    deadline = time.monotonic() + SETTLE_S
    while True:
        read = file.read()
        found = differing_applications(read, await serve.applications())
        if not found:
            return read
        if time.monotonic() >= deadline:
            is_file = isinstance(file, ConfigFile)
            other = ", or set HYDRAULIC_SERVE_CONFIG to the file that runs" if is_file else ""
            raise ReleaseConflict(
                f"expected what runs in '{file.name}'{' of this node' if is_file else ''}, found: "
                f"{'; '.join(found)}: see `hydraulic release diff`, and `apply` it{other}"
            )
        await asyncio.sleep(0.2)


def open_release_service(settings: Settings, store: Store) -> ReleaseService:
    """Create the release service of an ingress replica in a running cluster."""
    return ReleaseService(settings, store, dashboard_of_cluster)
