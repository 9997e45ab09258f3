"""What a request means: which machine, which window, the readings that came with it, which interval of time.

Pure: machines and the clock are arguments.
Invariant: a request that can't be resolved says what was expected of the caller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from opentelemetry.trace import SpanContext
from pydantic import ValidationError
from pydantic_core import from_json

from app.core.errors import InputError, LimitExceeded
from app.diagnosis.build import MAX_EXPLAINED_SENSORS, too_large_to_explain
from app.features.binning import Floats
from app.schemas.diagnosis import MAX_BATCH_ITEMS, DiagnosisRequest
from app.schemas.equipment import Equipment
from app.schemas.places import shown
from app.schemas.topology import parse_equipment
from app.serving.ingress.windows import Bins, inline_window, window_before

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A request whose machine and window are known.

    `inline` holds its readings when they came with it; `asked_by` is its caller's span, where that is traced.
    """

    request: DiagnosisRequest
    equipment: Equipment
    bins: Bins
    inline: Floats | None
    asked_by: SpanContext | None = None

    @property
    def weight(self) -> int:
        """What the window costs beside others: its sensors' bins."""
        return max(1, len(self.equipment.sensors) * self.bins.length)


def parse_batch(body: bytes) -> list[DiagnosisRequest | Exception]:
    """Take a batch's body apart; an item that can't be used becomes its error.

    Raises:
        InputError: the body as a whole is no batch.
        LimitExceeded: it has more items than a batch may have.
    """
    try:
        document = from_json(body)
    except ValueError as error:
        raise InputError(f"expected JSON, found text that does not parse: {error}") from error
    items = (
        document.get("items") if isinstance(document, dict) and set(document) == {"items"} else None
    )
    if not isinstance(items, list) or not items:
        raise InputError(
            f"expected an object with a list `items` and nothing else, found {shown(document)}",
            "items",
        )
    if len(items) > MAX_BATCH_ITEMS:
        raise LimitExceeded(
            f"expected at most {MAX_BATCH_ITEMS} items, found {len(items)}: send several batches",
            "items",
        )
    return [_request_of(item) for item in items]


def resolve(request: DiagnosisRequest, registered: Equipment | None, now: datetime) -> Resolved:
    """Find out what a request means.

    Args:
        request: as the caller gave it.
        registered: the machine's registered topology; None when the request brings its own.
        now: UTC.

    Raises:
        HydraulicDiagnosticsError: it means nothing that can be diagnosed, and why.
    """
    equipment = (
        registered if request.equipment is None else _inline_equipment(request, request.equipment)
    )
    assert equipment is not None
    if request.explain and len(equipment.sensors) > MAX_EXPLAINED_SENSORS:
        raise too_large_to_explain(len(equipment.sensors))
    if request.readings is None:
        return Resolved(request, equipment, window_before(equipment, request.at, now), None)
    if request.at is not None:
        raise InputError("expected either `at` or `readings`, found both: leave one out", "at")
    bins, values_SN = inline_window(equipment, request.readings, now)
    return Resolved(request, equipment, bins, values_SN)


def checked_interval(
    start: datetime | None, end: datetime | None
) -> tuple[datetime | None, datetime | None]:
    """Return an interval as it was given.

    Args:
        start: None for the beginning.
        end: None for no end.

    Raises:
        InputError: a time is not one of this service, or the start is not before the end.
    """
    for field, at in (("start", start), ("end", end)):
        if at is not None and not EARLIEST <= at <= LATEST:
            raise InputError(
                f"expected a time from {EARLIEST.year} to {LATEST.year}, found {at.isoformat()}: correct `{field}`",
                field,
            )
    if start is not None and end is not None and start >= end:
        raise InputError(
            f"expected start before end, found {start.isoformat()} and {end.isoformat()}: exchange or widen them",
            "start",
        )
    return start, end


def _inline_equipment(request: DiagnosisRequest, topology: Mapping[str, Any]) -> Equipment:
    if request.readings is None:
        raise InputError(
            "expected `readings` beside an inline `equipment`, found none: add them", "readings"
        )
    equipment = parse_equipment({"equipment_id": request.equipment_id, **topology}, "equipment")
    if equipment.equipment_id != request.equipment_id:
        raise InputError(
            f"expected equipment.equipment_id '{request.equipment_id}', found '{equipment.equipment_id}': make them equal",
            "equipment.equipment_id",
        )
    return equipment


def _request_of(item: object) -> DiagnosisRequest | Exception:
    try:
        return DiagnosisRequest.model_validate(item)
    except ValidationError as error:
        return error
