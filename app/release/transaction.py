"""Changes the configuration and the running applications together, and reverts both on failure.

Invariant: when a change ends with an error, the configuration has the text from before it; unless
what holds it does not answer, which the error says.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable

from tenacity import AsyncRetrying, retry_if_exception, retry_if_exception_type, stop_after_delay

from app.core.errors import (
    HydraulicDiagnosticsError,
    ReleaseConflict,
    ReleaseError,
    ReleasesUnavailable,
)
from app.release.clients.serve_api import TokenRefused
from app.release.clients.service_api import ServiceApi
from app.release.config.file import ReadConfig
from app.release.target import ConfigStore, ServeTarget


class NotRestored(ReleaseError):
    """A change failed and could not be reverted."""


class ConfigTransaction:
    """Changes the file and what runs, for one command at a time.

    Methods raise HydraulicDiagnosticsError when the file, Serve or the service does not follow.

    Args:
        file: The configuration.
        serve: Applies it.
        service: The running service.
        actor: Who requests the change; concurrent commands are shown it.
        report: Receives a warning when an interrupted change could not be reverted.
    """

    def __init__(
        self,
        file: ConfigStore,
        serve: ServeTarget,
        service: ServiceApi,
        actor: str,
        report: Callable[[str], None],
    ) -> None:
        self._file = file
        self._serve = serve
        self._service = service
        self._actor = actor
        self._report = report

    @contextlib.asynccontextmanager
    async def locked(self, command: str) -> AsyncIterator[None]:
        """Lock the file against other commands.

        Args:
            command: Shown to concurrent commands.

        Raises:
            ReleaseConflict: Another command holds the lock.
        """
        with self._file.locked(f"{command} by {self._actor}, process {os.getpid()}"):
            yield

    async def replace(self, before: ReadConfig, text: str) -> ReadConfig:
        """Replace the file and apply it, while locked; restore the file when Serve refuses it.

        Raises:
            NotRestored: It is applied no more and could not be restored.
        """
        after = self._file.replace(before, text)
        await self._apply(before, after)
        return after

    async def replace_traffic(self, before: ReadConfig, text: str, timeout_s: float) -> ReadConfig:
        """Replace the file, while locked, and wait for its traffic; restore it on failure."""
        after = self._file.replace(before, text)
        await self.follow(before, after, timeout_s)
        return after

    async def follow(self, before: ReadConfig, after: ReadConfig, timeout_s: float) -> None:
        """Apply a text that the file has already and wait for its traffic; else restore `before`.

        Raises:
            NotRestored: It could not be restored.
            ReleaseError: It did not come in force.
        """
        await self._apply(before, after)
        try:
            await self.wait_traffic(after, timeout_s)
        except (HydraulicDiagnosticsError, asyncio.CancelledError) as error:
            await self._restore(before, after, error)
            failure = await self._apply_again(before)
            if isinstance(error, asyncio.CancelledError):
                raise
            where = "the previous weights stay in force"
            if failure is not None:
                where = f"{self._file.name} has the previous weights, not yet in force ({failure})"
            raise ReleaseError(f"{where}: {error.message}") from error

    async def _apply(self, before: ReadConfig, after: ReadConfig) -> None:
        try:
            await self._serve.apply(after.data)
        except BaseException as error:
            await self._restore(before, after, error)
            if isinstance(error, asyncio.CancelledError):
                # Serve may have accepted it before it could answer
                await self._apply_again(before)
            raise

    async def _restore(self, before: ReadConfig, after: ReadConfig, cause: BaseException) -> None:
        """Put the text from before back, also when what holds it is away for a while.

        Raises:
            NotRestored: It does not answer for longer, or has been changed meanwhile.
            CancelledError: The same, when the cause is one.
        """
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(ReleasesUnavailable),
                stop=stop_after_delay(self._serve.outage_s),
                wait=self._serve.retry_wait,
                reraise=True,
            ):
                with attempt:
                    is_first = attempt.retry_state.attempt_number == 1
                    if is_first or self._file.read().text != before.text:  # an answer was lost
                        self._file.replace(after, before.text)
        except HydraulicDiagnosticsError as error:
            stays = "the new text"
            if isinstance(error, ReleaseConflict):
                stays = "the new text, or somebody's later change,"
            name = self._file.name
            found = (
                f"expected to restore {name}, found: {error.message}; {stays} stays in {name}; "
                "run `hydraulic release rollback`"
            )
            if not isinstance(cause, Exception):
                self._report(f"warning: {found}")
                raise cause from None
            raise NotRestored(f"{cause}; {found}") from cause

    async def _apply_again(self, before: ReadConfig) -> str | None:
        """Apply the restored text; return why it is not in force, if it is not.

        An error here must not hide the one because of which the text was restored.
        """
        try:
            async with asyncio.timeout(self._serve.outage_s):
                await self._serve.apply(before.data)
        except HydraulicDiagnosticsError as error:
            return error.message
        except TimeoutError:
            return f"not applied within {self._serve.outage_s:g} s"
        return None

    async def wait_traffic(self, config: ReadConfig, timeout_s: float) -> None:
        """Wait until every ingress replica uses a configuration's weights and shadows."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        replicas = 1
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_may_follow),
            stop=stop_after_delay(timeout_s),
            wait=self._serve.retry_wait,
            reraise=True,
        ):
            with attempt:
                replicas = await self.ingress_replicas(config)
        left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        await self._service.wait_traffic(config.config.traffic, replicas, left_s)

    async def ingress_replicas(self, config: ReadConfig) -> int:
        """Return the number of running ingress replicas, at least 1."""
        state = (await self._serve.applications()).get(config.config.diagnostics.name)
        ingress = state.deployments.get("Ingress") if state else None
        return ingress.running if ingress else 1


def _may_follow(error: BaseException) -> bool:
    """Whether Serve may answer later; the head may be restarting."""
    return isinstance(error, ReleaseError) and not isinstance(error, TokenRefused)
