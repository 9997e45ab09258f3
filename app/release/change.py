"""A change of the file together with what runs: one command at a time, and both go back when what runs does not follow.

Invariant: when a change ends with an error, the file holds the text from before it.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator

from app.core.errors import ReleaseConflict, ReleaseError
from app.release.clients.serve_api import ServeApi
from app.release.clients.service_api import ServiceApi
from app.release.config.file import ConfigFile, ReadConfig

LOCK_POLL_S = 0.05


class Change:
    """How a command changes the file and what runs.

    Args:
        file: `serve_config.yaml`.
        serve: applies it.
        service: the running service.
        actor: who asks, told to others that are at work meanwhile.
    """

    def __init__(self, file: ConfigFile, serve: ServeApi, service: ServiceApi, actor: str) -> None:
        self._file = file
        self._serve = serve
        self._service = service
        self._actor = actor

    @contextlib.asynccontextmanager
    async def alone(self, what: str, patience_s: float = 0.0) -> AsyncIterator[None]:
        """Keep other commands from changing the file meanwhile.

        Args:
            what: the command, told to the others.
            patience_s: how long to wait for another one that is at work.

        Raises:
            ReleaseConflict: another command is at work.
        """
        who = f"{what} by {self._actor}, process {os.getpid()}"
        give_up = time.monotonic() + patience_s
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(self._file.exclusive(who))
                    break
                except ReleaseConflict:
                    if time.monotonic() >= give_up:
                        raise
                await asyncio.sleep(LOCK_POLL_S)
            yield

    async def replace(self, before: ReadConfig, text: str) -> ReadConfig:
        """Change the file and apply it, while `alone`; when Serve does not take it, the file goes back.

        Raises:
            HydraulicDiagnosticsError: it can't be done.
        """
        after = self._file.replace(before, text)
        try:
            await self._serve.apply(after.data)
        except BaseException as error:
            self._file.replace(after, before.text)
            if isinstance(
                error, asyncio.CancelledError
            ):  # Serve may have taken it before it could answer
                await self._serve.apply(before.data)
            raise
        return after

    async def put_in_force(self, before: ReadConfig, text: str, within_s: float) -> ReadConfig:
        """Change the file, while `alone`, and wait until its weights and shadows are in force; when they do not come, those before stay.

        Raises:
            HydraulicDiagnosticsError: it can't be done.
        """
        after = await self.replace(before, text)
        try:
            await self.in_force(after, within_s)
        except (ReleaseError, asyncio.CancelledError) as error:
            await self.replace(after, before.text)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise ReleaseError(f"the weights before stay in force: {error.message}") from error
        return after

    async def in_force(self, config: ReadConfig, within_s: float) -> None:
        """Wait until every ingress replica has a configuration's weights and shadows in force.

        Raises:
            ReleaseError: they are not in time.
        """
        await self._service.wait_traffic(
            config.config.traffic, await self.ingress_replicas(config), within_s
        )

    async def ingress_replicas(self, config: ReadConfig) -> int:
        """Return how many ingress replicas run.

        Raises:
            ReleaseError: Serve does not tell.
        """
        door = (await self._serve.applications()).get(config.config.diagnostics.name)
        return door.deployments["Ingress"].running if door and "Ingress" in door.deployments else 1
