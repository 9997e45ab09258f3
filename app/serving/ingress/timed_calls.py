"""Calls to other deployments: their time limit, their metrics and the translation of their errors.

Whom to call, and what a failure means for a version, is in `version_router`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import TypeVar

from app.core.errors import (
    DeadlineExceeded,
    HydraulicDiagnosticsError,
    LimitExceeded,
    ModelUnavailable,
    VersionBusy,
)
from app.serving.ingress.traffic import Release
from app.serving.observability.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")


class TimedCalls:
    """Awaits calls to other deployments within a time limit.

    Args:
        metrics: counts calls to versions.
        timeout_s: of each call.
    """

    def __init__(self, metrics: Metrics, timeout_s: float) -> None:
        self._metrics = metrics
        self._timeout_s = timeout_s

    async def to_version(self, release: Release, call: Awaitable[T], *, heavy: bool = False) -> T:
        """Await a call to a version and count it, also when another version answers instead.

        Args:
            release: of the version.
            call: to its application.
            heavy: whether the call may take long because of what its caller requests. Then a
                timeout is no failure of the version and is not counted.

        Raises:
            DeadlineExceeded: a heavy call timed out.
            VersionBusy: its replica works on earlier calls; this one is not counted.
            ModelUnavailable: no replica answered in time.
        """
        started = time.perf_counter()
        outcome = None
        try:
            answer = await self.within_timeout(call, f"version {release.version}")
            outcome = "answered"
        except VersionBusy:
            raise
        except ModelUnavailable as error:
            if heavy and isinstance(error.__cause__, TimeoutError):
                raise DeadlineExceeded(
                    f"expected version {release.version} to need at most {self._timeout_s:g} s for "
                    "a request, found one that takes longer: leave `explain` out, or request "
                    "shorter windows"
                ) from error.__cause__
            outcome = "failed"
            raise
        finally:
            if outcome is not None:
                seconds = time.perf_counter() - started
                self._metrics.version_calls.labels(release.version, outcome).inc()
                self._metrics.version_seconds.labels(release.version).observe(seconds)
        return answer

    async def within_timeout(self, call: Awaitable[T], name: str) -> T:
        """Await a call to another deployment.

        Raises:
            LimitExceeded: the other side refused what the caller of the service requested.
            VersionBusy: the other side works on earlier requests.
            ModelUnavailable: any other failure; its message reaches callers, so the text of a
                foreign error goes to the log alone.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call
        except asyncio.CancelledError:
            raise
        except Exception as error:
            known = _project_error(error)
            if isinstance(known, LimitExceeded | VersionBusy):
                raise known from error
            if known is not None:
                found = f"an error: {known.message}"
            elif isinstance(error, TimeoutError):
                found = "no answer: try again in a few seconds"
            else:
                found = "an internal error: the log of this replica says which"
            if known is None:
                what = {"to": name, "error": type(error).__name__, "reason": str(error)}
                logger.warning("call failed", extra=what)
            raise ModelUnavailable(
                f"expected {name} to answer within {self._timeout_s:g} s, found {found}"
            ) from error


def _project_error(error: BaseException) -> HydraulicDiagnosticsError | None:
    """Return the project's error in what a call raised; Ray keeps it as `cause` of its own."""
    for found in (getattr(error, "cause", None), error):
        if isinstance(found, HydraulicDiagnosticsError):
            return found
    return None
