"""The last diagnosis of each machine, to answer with while the database is away.

A tenant gets only what it was answered itself. Only requests of stored readings that a version
chosen by traffic answered are kept, since those are what such a request would get again.
"""

import dataclasses
from datetime import datetime
from typing import NamedTuple

from cachetools import LRUCache

from app.schemas.diagnosis import Diagnosis, DiagnosisRequest
from app.store.caller import current_caller

MAX_BYTES = 48 * 1024 * 1024
"""Of all bodies, some 8,000 machines of the rig's size."""


class _Key(NamedTuple):
    tenant: str | None
    equipment_id: str
    explain: bool


class LastDiagnoses:
    """The last diagnoses of one replica."""

    def __init__(self) -> None:
        self._bodies: LRUCache[_Key, bytes] = LRUCache(
            MAX_BYTES, lambda body: min(len(body), MAX_BYTES)
        )

    def note(self, request: DiagnosisRequest, body: bytes) -> None:
        """Keep what a request was answered, if it is of the kind that is kept."""
        if _is_of_now(request):
            self._bodies[_key_of(request)] = body

    def of(self, request: DiagnosisRequest, now: datetime) -> bytes | None:
        """Return the last diagnosis marked as stale with its age, or None if there is none.

        Args:
            request: whose answer the database would be needed for.
            now: UTC.
        """
        body = None
        if _is_of_now(request):
            body = self._bodies.get(_key_of(request))
        if body is None:
            return None
        last = Diagnosis.from_json(body)
        age_s = round(max(0.0, (now - last.created_at).total_seconds()), 3)
        return dataclasses.replace(last, stale=True, age_s=age_s).to_json()

    def forget(self, equipment_id: str) -> None:
        """Drop what is kept of a machine, of any tenant."""
        for key in [each for each in self._bodies if each.equipment_id == equipment_id]:
            del self._bodies[key]


def _key_of(request: DiagnosisRequest) -> _Key:
    return _Key(current_caller().tenant, request.equipment_id, request.explain)


def _is_of_now(request: DiagnosisRequest) -> bool:
    """Return whether a request is about the stored readings up to now, by any version."""
    return request.readings is None and request.at is None and request.model_version is None
