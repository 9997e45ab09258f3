"""Changes `serve_config.yaml` and the running applications together, and reverts both on failure.

Invariant: when a change ends with an error, the file holds the text from before it.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random

from app.core.errors import ReleaseConflict, ReleaseError
from app.release.clients.serve_api import ServeApi
from app.release.clients.service_api import ServiceApi
from app.release.config.file import ConfigFile, ReadConfig
from app.release.config.weights import Split, format_split

RETRY_WAIT = wait_random(0.02, 0.08)
"""Seconds between two attempts to get the file; random, so that two commands do not collide."""


class WeightsChanged(ReleaseConflict):
    """Another command or person changed the weights.

    Args:
        found: The weights, which stay.
    """

    def __init__(self, found: Split) -> None:
        super().__init__(
            f"expected the weights of this promotion in the file, found {format_split(found)}: "
            "somebody changed them, and they stay"
        )


class ConfigTransaction:
    """Changes the file and what runs, for one command at a time.

    Methods raise HydraulicDiagnosticsError when the file, Serve or the service does not follow.
    Concurrent commands are shown the actor, who requests the change.
    """

    def __init__(self, file: ConfigFile, serve: ServeApi, service: ServiceApi, actor: str) -> None:
        self._file = file
        self._serve = serve
        self._service = service
        self._actor = actor

    @contextlib.asynccontextmanager
    async def locked(self, command: str, timeout_s: float = 0.0) -> AsyncIterator[None]:
        """Lock the file against other commands.

        Args:
            command: Shown to concurrent commands.
            timeout_s: How long to wait for the lock.

        Raises:
            ReleaseConflict: Another command holds the lock.
        """
        holder = f"{command} by {self._actor}, process {os.getpid()}"
        with contextlib.ExitStack() as stack:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(ReleaseConflict),
                stop=stop_after_delay(timeout_s),
                wait=RETRY_WAIT,
                reraise=True,
            ):
                with attempt:
                    stack.enter_context(self._file.locked(holder))
            yield

    async def replace(self, before: ReadConfig, text: str) -> ReadConfig:
        """Replace the file and apply it, while locked; restore the file when Serve refuses it."""
        after = self._file.replace(before, text)
        try:
            await self._serve.apply(after.data)
        except BaseException as error:
            self._file.replace(after, before.text)
            if isinstance(error, asyncio.CancelledError):
                # Serve may have accepted it before it could answer
                await self._serve.apply(before.data)
            raise
        return after

    async def replace_traffic(self, before: ReadConfig, text: str, timeout_s: float) -> ReadConfig:
        """Replace the file, while locked, and wait for its traffic; restore it on failure."""
        after = await self.replace(before, text)
        try:
            await self.wait_traffic(after, timeout_s)
        except (ReleaseError, asyncio.CancelledError) as error:
            await self.replace(after, before.text)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise ReleaseError(f"the previous weights stay in force: {error.message}") from error
        return after

    async def wait_traffic(self, config: ReadConfig, timeout_s: float) -> None:
        """Wait until every ingress replica uses a configuration's weights and shadows."""
        replicas = await self.ingress_replicas(config)
        await self._service.wait_traffic(config.config.traffic, replicas, timeout_s)

    async def ingress_replicas(self, config: ReadConfig) -> int:
        """Return the number of running ingress replicas, at least 1."""
        state = (await self._serve.applications()).get(config.config.diagnostics.name)
        ingress = state.deployments.get("Ingress") if state else None
        return ingress.running if ingress else 1
