"""The lock of releases on Kubernetes: a Lease that its holder renews, and that expires without it.

All times are the API server's, from the `date` of its answers, so clocks of nodes do not matter.
A Lease keeps commands from each other's way; that none overwrites another's text is ensured by
the resource version of the RayService, also when a holder was stopped longer than its Lease lasts.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
from pydantic import BaseModel, ConfigDict, Field

from app.core.errors import HydraulicDiagnosticsError, ReleaseConflict, ReleasesUnavailable
from app.release.kubernetes.api import Answer, KubernetesApi, read_object

logger = logging.getLogger(__name__)

LEASE_S = 15
"""How long others wait for a command that was killed."""
RENEW_S = 4.0
TIMEOUT_S, RETRY_S = 3.0, 4.0
"""Of a request: a renewal (a read and a write) after RENEW_S must end before the Lease expires."""
_ATTEMPTS = 5


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)

    holder: str | None = Field(None, alias="holderIdentity")
    duration_s: int | None = Field(None, alias="leaseDurationSeconds")
    renewed_at: datetime | None = Field(None, alias="renewTime")
    transitions: int | None = Field(None, alias="leaseTransitions")


class _Metadata(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)

    resource_version: str = Field("", alias="resourceVersion")


class Lease(BaseModel, frozen=True):
    """What is read of a Lease."""

    metadata: _Metadata = _Metadata()
    spec: _Spec = _Spec()

    def expires_at(self) -> datetime:
        """Return when it is free again unless it is renewed."""
        if not self.spec.holder or self.spec.renewed_at is None:
            return datetime.min.replace(tzinfo=UTC)
        return self.spec.renewed_at + timedelta(seconds=self.spec.duration_s or 0)


class LeaseLock:
    """Holds a Lease while a command works; one object serves one command at a time.

    Args:
        api: The API server.
        namespace: Of the Lease.
        name: Of the Lease; it is created when it does not exist.
    """

    def __init__(self, api: KubernetesApi, namespace: str, name: str) -> None:
        self._api = api
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._name = name
        self._lost: str | None = None
        self._renewed_at_s = 0.0
        """When the request was sent that renewed it last, on this machine's monotonic clock."""

    @contextlib.contextmanager
    def held(self, holder: str) -> Iterator[None]:
        """Hold the Lease.

        Args:
            holder: The command and its actor, shown to the other commands.

        Raises:
            ReleaseConflict: Another command holds it.
            HydraulicDiagnosticsError: The API server does not answer, or refuses.
        """
        identity = f"{holder[:200]}, {uuid4().hex[:12]}"
        self._lost = None
        self._acquire(identity)
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(identity, ended), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            try:
                self._release(identity)
            except HydraulicDiagnosticsError as error:
                logger.warning("lease not released", extra={"reason": error.message})

    def check(self) -> None:
        """Check that the Lease was not taken over, and has not expired.

        Raises:
            ReleaseConflict: Another command holds it.
            ReleasesUnavailable: It was not renewed in time; it may still be renewed.
        """
        if self._lost is not None:
            raise ReleaseConflict(
                f"expected to hold the Lease '{self._name}', found it with '{self._lost}', who "
                "took it when it had expired or was deleted: look at `hydraulic release status`"
            )
        age_s = time.monotonic() - self._renewed_at_s
        if age_s > LEASE_S:
            raise ReleasesUnavailable(
                f"expected the Lease '{self._name}' to be renewed every {RENEW_S:g} s, found it "
                f"renewed {age_s:.0f} s ago: the API server does not answer; repeat the command "
                "when it does"
            )

    def _acquire(self, identity: str) -> None:
        """Take the Lease."""
        for _ in range(_ATTEMPTS):
            self._renewed_at_s = time.monotonic()
            lease, now = self._read()
            if lease is None:
                answer = self._write("POST", self._collection, identity, now, None)
            else:
                if lease.spec.holder == identity:  # an answer was lost
                    return
                if lease.expires_at() > now:
                    left_s = (lease.expires_at() - now).total_seconds()
                    raise ReleaseConflict(
                        f"expected no other command to hold the Lease '{self._name}', found "
                        f"another command at work ({lease.spec.holder}): try again when it is "
                        f"done, or in {left_s:.0f} s if it was killed"
                    )
                answer = self._write("PUT", self._path, identity, now, lease)
            if answer.status < httpx.codes.MULTIPLE_CHOICES:
                return
        raise ReleaseConflict(
            f"expected to take the Lease '{self._name}', found that others take it: try again"
        )

    def _renew(self, identity: str, ended: threading.Event) -> None:
        """Renew the Lease until the command has ended, or another one has taken it."""
        while not ended.wait(RENEW_S):
            try:
                sent_at_s = time.monotonic()
                lease, now = self._read()
                if lease is None or lease.spec.holder != identity:
                    self._lost = (lease and lease.spec.holder) or "nobody"
                    return
                answer = self._write("PUT", self._path, identity, now, lease)
                if answer.status < httpx.codes.MULTIPLE_CHOICES:
                    self._renewed_at_s = sent_at_s
            except HydraulicDiagnosticsError as error:
                logger.warning("lease not renewed", extra={"reason": error.message})

    def _release(self, identity: str) -> None:
        lease, now = self._read()
        if lease is not None and lease.spec.holder == identity:
            self._write("PUT", self._path, "", now, lease)

    @property
    def _path(self) -> str:
        return f"{self._collection}/{self._name}"

    def _read(self) -> tuple[Lease | None, datetime]:
        """Return the Lease if it exists, and the API server's time."""
        answer = self._api.send(
            "GET",
            self._path,
            accepts={httpx.codes.NOT_FOUND},
            timeout_s=TIMEOUT_S,
            retry_s=RETRY_S,
        )
        found = answer.status != httpx.codes.NOT_FOUND
        return read_object(Lease, answer.body) if found else None, answer.date

    def _write(
        self, method: str, path: str, identity: str, now: datetime, before: Lease | None
    ) -> Answer:
        """Write the Lease; 409 is returned when somebody else wrote it since it was read."""
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        transitions = 0
        if before is not None:
            metadata["resourceVersion"] = before.metadata.resource_version
            is_other = bool(identity) and before.spec.holder != identity
            transitions = (before.spec.transitions or 0) + is_other
        spec = {
            "holderIdentity": identity,
            "leaseDurationSeconds": LEASE_S if identity else 1,
            "renewTime": f"{now:%Y-%m-%dT%H:%M:%S.%f}Z",
            "leaseTransitions": transitions,
        }
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }
        return self._api.send(
            method,
            path,
            accepts={httpx.codes.CONFLICT},
            body=body,
            timeout_s=TIMEOUT_S,
            retry_s=RETRY_S,
        )
