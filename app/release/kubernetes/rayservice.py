"""The RayService: its `spec.serveConfigV2` instead of a file, its status instead of Serve's answer.

KubeRay applies `serveConfigV2` to Serve, also after the head has restarted; what Serve's REST
interface is given directly is lost then. So releases write the text here and wait until KubeRay's
status says that it was applied.
Invariant: the resource holds the old or the new text; a text is only replaced by one made from it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Self, TypeVar

from tenacity import wait_exponential_jitter
from tenacity.wait import wait_base

from app.core.errors import ReleaseConflict, ReleaseError, SettingsError
from app.core.tasks import end_tasks
from app.release.clients.serve_api import ApplicationState, ServeApi
from app.release.config.file import ReadConfig, check_digest, parse_config
from app.release.kubernetes.lease import LeaseLock
from app.release.kubernetes.resource import RayService, RayServiceResource

logger = logging.getLogger(__name__)

_ATTEMPTS = 50
"""How often a write is repeated because KubeRay has written its status meanwhile."""
_RUNNING = "RUNNING"

T = TypeVar("T")


class RayServiceConfig:
    """Reads and replaces the text of a RayService; `ConfigFile` does the same with a file.

    Args:
        resource: The RayService.
        expected_digest: SHA-256 that every read must find until this object replaces the text;
            None accepts any content.
    """

    def __init__(self, resource: RayServiceResource, expected_digest: str | None = None) -> None:
        self._resource = resource
        self._expected_digest = expected_digest
        self._lock = LeaseLock(resource.api, resource.namespace, f"{resource.name}-release")
        self.name = f"RayService {resource.namespace}/{resource.name}"

    def read(self) -> ReadConfig:
        """Read the text.

        Raises:
            SettingsError: It has an invalid key or value, or there is none.
            ReleaseConflict: It does not have the expected digest.
            ReleaseError: The API server does not answer, or refuses.
        """
        found = self.parse(self.read_text())
        check_digest(found, self._expected_digest, self.name)
        return found

    def read_text(self) -> str:
        """Read the text, which need not be valid.

        Raises:
            ReleaseError: The API server does not answer, or refuses.
        """
        return self._resource.read().spec.text

    def parse(self, text: str) -> ReadConfig:
        """Parse a text as `serveConfigV2`.

        Raises:
            SettingsError: It has an invalid key or value, or a repeated key, or is empty.
        """
        if not text.strip():
            raise SettingsError(
                f"expected a Serve configuration in spec.serveConfigV2 of {self.name}, found "
                "none: apply the manifests"
            )
        return parse_config(text, self.name)

    @contextlib.contextmanager
    def locked(self, holder: str) -> Iterator[None]:
        """Hold the Lease of releases.

        Args:
            holder: The command and its actor, shown to the other commands.

        Raises:
            ReleaseConflict: Another command holds it, or KubeRay is replacing the Ray cluster and
                would change the new one alone.
            ReleaseError: The API server does not answer, or refuses.
        """
        with self._lock.held(holder):
            status = self._resource.read().status
            if status.pending.cluster:
                raise ReleaseConflict(
                    f"expected one Ray cluster of {self.name}, found that KubeRay replaces "
                    f"'{status.active.cluster}' by '{status.pending.cluster}': try again when the "
                    "upgrade is done"
                )
            yield

    def replace(self, before: ReadConfig, text: str) -> ReadConfig:
        """Replace the text, while locked.

        The field is taken from other managers, such as the one that applied the manifest.

        Args:
            before: The content from which the new text was made.
            text: The new text.

        Returns:
            The new content.

        Raises:
            ReleaseConflict: The text is not that of `before`, or the Lease was lost.
            SettingsError: The new text is invalid; the resource is unchanged.
            ReleaseError: The API server does not answer, or refuses.
        """
        after = self.parse(text)
        takes_over, was_sent = False, False
        for _ in range(_ATTEMPTS):
            now = self._resource.read()
            if was_sent and now.spec.text == text:  # the answer to the last attempt was lost
                break
            self._lock.check()
            if now.spec.text != before.text:
                raise ReleaseConflict(
                    f"expected '{self.name}' as it was read ({before.digest[:12]}), found it "
                    "changed since: read it and repeat the command"
                )
            version = now.metadata.resource_version
            owners = self._resource.apply(text, version, force=takes_over)
            if owners is None:
                break
            if owners:
                logger.warning("serveConfigV2 taken over", extra={"managers": list(owners)})
                takes_over = True
            was_sent = True
        else:
            raise ReleaseConflict(
                f"expected to write '{self.name}', found it changed by others {_ATTEMPTS} times: "
                "repeat the command"
            )
        self._expected_digest = None  # later reads find this text
        return after


class RayServiceServe:
    """Waits for KubeRay to apply the text, and reads what runs from Ray's dashboard.

    Args:
        resource: The RayService.
        dashboard: Of the head; it is only read.
    """

    in_force_s = 300.0
    """Time limit until a change is in force: a head that restarts meanwhile takes minutes."""
    outage_s = 120.0
    """How long the API server, or measurements, may fail during a promotion."""
    retry_wait: wait_base = wait_exponential_jitter(multiplier=0.5, max=5.0, jitter=0.5)
    """Each attempt costs the API server several requests."""

    def __init__(self, resource: RayServiceResource, dashboard: ServeApi) -> None:
        self._resource = resource
        self._dashboard = dashboard

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._dashboard.__aexit__()

    async def apply(self, _config: object) -> None:
        """Wait until KubeRay has given the resource's text to Serve; others wrote it there.

        Raises:
            ReleaseError: It has not in time.
        """
        await self._wait(lambda found: found.is_applied or None, self.in_force_s, "to be applied")

    async def applications(self) -> dict[str, ApplicationState]:
        """Return the state of every application, as Serve reports it."""
        return await self._dashboard.applications()

    async def wait_running(self, name: str, timeout_s: float) -> ApplicationState:
        """Wait until KubeRay reports that an application runs; else raise ReleaseError."""

        def running(found: RayService) -> ApplicationState | None:
            status = found.status.active.applications.get(name) if found.is_applied else None
            return status.state if status and status.status == _RUNNING else None

        reporting = asyncio.create_task(
            self._wait(running, timeout_s, f"with application '{name}' running")
        )
        failing = asyncio.create_task(self._failure(name))
        try:
            done, _ = await asyncio.wait({reporting, failing}, return_when=asyncio.FIRST_COMPLETED)
            if reporting in done:
                state = reporting.result()
                return await self._with_replicas(name, state)
            raise ReleaseError(f"expected application '{name}' to start, found: {failing.result()}")
        finally:
            await end_tasks((reporting, failing))

    async def wait_gone(self, name: str, timeout_s: float) -> None:
        """Wait until KubeRay reports an application no more; else raise ReleaseError."""

        def gone(found: RayService) -> bool | None:
            return (found.is_applied and name not in found.status.active.applications) or None

        await self._wait(gone, timeout_s, f"without application '{name}'")

    async def describe(self) -> list[str]:
        """Describe the resource for people."""
        found = await asyncio.to_thread(self._resource.read)
        owners = ", ".join(found.managers) or "nobody"
        return [*found.lines(), f"spec.serveConfigV2 is managed by {owners}"]

    async def _failure(self, name: str) -> str:
        """Return why an application fails to start, from Serve: KubeRay's status may be older."""
        while True:
            with contextlib.suppress(ReleaseError):
                state = (await self._dashboard.applications()).get(name)
                if state is not None and state.failure is not None:
                    return state.failure
            await asyncio.sleep(1.0)

    async def _with_replicas(self, name: str, state: ApplicationState) -> ApplicationState:
        """Return Serve's report, which has replicas, or KubeRay's while the head is away."""
        try:
            return (await self._dashboard.applications()).get(name, state)
        except ReleaseError:
            return state

    async def _wait(
        self, probe: Callable[[RayService], T | None], timeout_s: float, what: str
    ) -> T:
        """Return the first result of a probe that is not None."""
        last: RayService | None = None
        try:
            async with asyncio.timeout(timeout_s):
                async with contextlib.aclosing(self._resource.changes()) as changes:
                    async for last in changes:
                        if (found := probe(last)) is not None:
                            return found
        except TimeoutError as error:
            found_at_last = "; ".join(last.lines()) if last else "no answer of the API server"
            raise ReleaseError(
                f"expected {self._resource.namespace}/{self._resource.name} {what} within "
                f"{timeout_s:g} s, found {found_at_last}: see `kubectl describe rayservice`"
            ) from error
        raise AssertionError("unreachable: changes never end")
