"""The release desk of an ingress replica: what `python -m app.release` does, asked for over HTTP.

Each order is worked on in a thread with an event loop of its own: reading and editing the file takes tens of milliseconds, which callers
for diagnoses would wait. Torch and MLflow are needed to check and to name versions only, and stay in processes of their own.
Invariant: an order that was begun goes on to its end when its caller leaves; it acts on the file that says what runs, or not at all.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from app.core.errors import HydraulicDiagnosticsError, ReleaseConflict, ReleasesElsewhere
from app.core.settings import Settings
from app.schemas.releases import ReleaseAnswer

if TYPE_CHECKING:
    from app.release.config.file import ReadConfig
    from app.release.config.schema import ServeConfig
    from app.release.operations import Releases
    from app.serving.http.routes.releases import ReleaseRequest
    from app.store.releases import ReleaseEvent
    from app.store.store import Store

logger = logging.getLogger(__name__)

USUAL_TIMEOUT_S = 60.0
SHARE_OF_TIMEOUT = 0.7
"""Of `request_timeout_s`, after which a caller is told that the order is still worked on."""
CLOSE_S = 5.0
SETTLE_S = 2.0


class ReleaseService:
    """Does releases for the ingress.

    Args:
        settings: which file, and where the cache is.
        store: has the history; of the event loop in which orders come.
        dashboard: finds the address of Ray's dashboard; may block.
    """

    def __init__(self, settings: Settings, store: "Store", dashboard: "Callable[[], str]") -> None:
        self._settings = settings
        self._store = store
        self._dashboard = dashboard
        self._orders: dict[asyncio.Task[ReleaseAnswer], _ReleaseTask] = {}
        self._naming: set[asyncio.Task[None]] = set()

    async def split(self, asked: "ReleaseRequest", weights: Mapping[str, float]) -> ReleaseAnswer:
        """Give versions their weights, see `Releases.split`."""
        return await self._take(asked, lambda releases: releases.split(weights))

    async def deploy(
        self, asked: "ReleaseRequest", version: str, device: str | None
    ) -> ReleaseAnswer:
        """Check a version and add it with weight 0, see `Releases.deploy`."""

        async def work(releases: "Releases") -> None:
            from app.release.source import check

            await releases.deploy(await asyncio.to_thread(check, version, device))

        return await self._take(asked, work, deployed=version)

    async def rollback(self, asked: "ReleaseRequest") -> ReleaseAnswer:
        """Put the weights before those of now in force again, see `Releases.rollback`."""
        return await self._take(asked, lambda releases: releases.rollback())

    async def close(self) -> None:
        """Give up what is under way: what was changed by halves goes back."""
        for order in self._orders.values():
            order.give_up()
        if self._orders:
            await asyncio.wait(self._orders, timeout=CLOSE_S)

    async def _take(
        self,
        asked: "ReleaseRequest",
        work: "Callable[[Releases], Awaitable[None]]",
        deployed: str | None = None,
    ) -> ReleaseAnswer:
        """Work on an order apart, and answer when it is done, or when the caller has waited as long as a request may."""
        here = asyncio.get_running_loop()
        order = _ReleaseTask(
            self._settings, _History(self._store, here), self._dashboard, asked, work, deployed
        )
        config = await asyncio.to_thread(order.config)
        under_way = next(
            (order.deployed for order in self._orders.values() if order.deployed is not None), None
        )
        if deployed is not None and under_way is not None:
            raise ReleaseConflict(
                f"expected no other deployment under way here, found that of version {under_way}: ask again when it is done"
            )
        task = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(order.run())))
        self._orders[task] = order
        task.add_done_callback(self._ended)
        timeout_s = config.http_options.request_timeout_s or USUAL_TIMEOUT_S
        done, _ = await asyncio.wait({task}, timeout=SHARE_OF_TIMEOUT * timeout_s)
        return task.result() if done else await asyncio.to_thread(order.answer, "running")

    def _ended(self, task: asyncio.Task[ReleaseAnswer]) -> None:
        order = self._orders.pop(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, HydraulicDiagnosticsError):
            logger.warning("release refused", extra={"reason": error.message})
        elif error is not None:
            logger.error("release failed", exc_info=error)
        elif order.names:
            from app.release.source import name_apart

            naming = asyncio.create_task(
                asyncio.to_thread(name_apart, order.names, self._settings, logger.warning)
            )
            self._naming.add(naming)
            naming.add_done_callback(self._naming.discard)


class _History:
    """The store's history of releases, asked from another thread's event loop."""

    def __init__(self, store: "Store", home: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._home = home

    async def record_release(
        self, version: str, action: str, weights: Mapping[str, float], *, actor: str, reason: str
    ) -> "ReleaseEvent":
        """Add an event."""
        call = self._store.record_release(version, action, weights, actor=actor, reason=reason)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._home))

    async def list_releases(self, limit: int = 100) -> "list[ReleaseEvent]":
        """Return the newest events, newest first."""
        call = self._store.list_releases(limit)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._home))


class _ReleaseTask:
    """One order, from the file to its end; made in the ingress's thread, run in its own."""

    def __init__(
        self,
        settings: Settings,
        history: _History,
        dashboard: Callable[[], str],
        asked: "ReleaseRequest",
        work: "Callable[[Releases], Awaitable[None]]",
        deployed: str | None,
    ) -> None:
        self._settings = settings
        self._history = history
        self._dashboard = dashboard
        self._asked = asked
        self._work = work
        self.deployed = deployed
        self._said: list[str] = []
        self.names: Mapping[str, str] = {}
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    def config(self) -> "ServeConfig":
        """Read what the file says.

        Raises:
            ReleasesElsewhere: it is not here.
            SettingsError: it can't be used.
        """
        from app.release.config.file import ConfigFile

        return ConfigFile(self._path()).read().config

    async def run(self) -> ReleaseAnswer:
        """Work on the order.

        Raises:
            HydraulicDiagnosticsError: it was refused; what ran before goes on.
        """
        task = asyncio.create_task(self._do())
        self._running = (asyncio.get_running_loop(), task)
        await task
        return self.answer("would_change" if self._asked.dry_run else "done")

    def give_up(self) -> None:
        """Have it end soon, from any thread."""
        if self._running is not None:
            loop, task = self._running
            loop.call_soon_threadsafe(task.cancel)

    def answer(self, state: Literal["done", "running", "would_change"]) -> ReleaseAnswer:
        """Say how it stands."""
        from app.release.config.file import ConfigFile

        now = ConfigFile(self._path()).read()
        return ReleaseAnswer(
            state=state, said=tuple(self._said), weights=_weights(now), digest=now.digest
        )

    async def _do(self) -> None:
        # imported when asked for: an ingress that never releases stays as small as it is
        from app.release.clients.serve_api import ServeApi, ray_token
        from app.release.clients.service_api import ServiceApi, service_url
        from app.release.config.file import ConfigFile
        from app.release.ledger import Asker
        from app.release.operations import Releases
        from app.release.source import aliases
        from app.release.view import difference

        asked, path, settings = self._asked, self._path(), self._settings
        read = ConfigFile(path, asked.expected_digest).read()
        serve = ServeApi(
            await asyncio.to_thread(self._dashboard), ray_token(os.environ, Path.home())
        )
        service = ServiceApi(service_url(read.config), asked.key.get_secret_value())
        async with serve, service:
            give_up = time.monotonic() + SETTLE_S
            while found := [
                line
                for line in difference(read, await serve.applications())
                if line.startswith("application")
            ]:
                if time.monotonic() < give_up:  # another command may be between the file and Serve
                    await asyncio.sleep(0.2)
                    read = ConfigFile(path, asked.expected_digest).read()
                    continue
                raise ReleaseConflict(
                    f"expected what runs in '{path.name}' of this node, found: {'; '.join(found)}: see `python -m app.release diff`, and "
                    "`apply` it, or name the file that runs with HYDRAULIC_SERVE_CONFIG"
                )
            file, asker = ConfigFile(path, asked.expected_digest), Asker(asked.actor, asked.reason)
            releases = Releases(
                file,
                serve,
                service,
                self._history,
                asker,
                self._said.append,
                settings.var_dir,
                dry_run=asked.dry_run,
            )
            await self._work(releases)
            if not asked.dry_run:
                self.names = aliases(_weights(read), releases.weights(), self.deployed)

    def _path(self) -> Path:
        path = self._settings.serve_config
        if not path.is_file():
            raise ReleasesElsewhere(
                f"expected the file that says what runs as '{path}' on the ingress's node, found none: name it with HYDRAULIC_SERVE_CONFIG, "
                "or use `python -m app.release` where it is"
            )
        return path


def _weights(read: "ReadConfig") -> dict[str, float]:
    return {release.version: release.weight for release in read.config.traffic.releases}


def open_release_service(settings: Settings, store: "Store") -> ReleaseService:
    """Make the desk of an ingress replica of a running cluster."""
    from app.serving.observability.dashboard import dashboard_of_cluster

    return ReleaseService(settings, store, dashboard_of_cluster)
