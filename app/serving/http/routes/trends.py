"""Hourly health of a machine and of the fleet, and readings of a machine in each minute."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, NamedTuple, Protocol

from fastapi import FastAPI, Query, Response

from app.core.errors import InputError
from app.schemas.health import (
    ComponentHealth,
    FleetComponentHealth,
    FleetHealth,
    HealthHistory,
    ReadingCounts,
)
from app.schemas.times import AwareTime
from app.serving.http.auth import Authenticator
from app.serving.http.openapi import problems
from app.serving.http.routes.common import (
    access,
    checked_equipment_id,
    checked_interval,
    json_response,
)
from app.store.health import ComponentHours, Resolution

DEFAULT_HEALTH = timedelta(days=7)
DEFAULT_COUNTS = timedelta(hours=1)
MAX_COUNTS = timedelta(days=1)
LONGEST: dict[Resolution, timedelta] = {"hour": timedelta(days=92), "day": timedelta(days=1_830)}
"""Some 2,000 hours, or five years of days, of each component."""

Start = Annotated[AwareTime | None, Query(description="of the interval; a week before `end`")]
End = Annotated[AwareTime | None, Query(description="of the interval; now without it")]
Width = Annotated[
    Literal["hour", "day"],
    Query(description="hours of at most 92 days, or days of at most five years"),
]


class _Interval(NamedTuple):
    start: datetime
    end: datetime


class HealthSource(Protocol):
    """Reads hourly health."""

    async def health_of(
        self, equipment_id: str, start: datetime, end: datetime, resolution: Resolution = "hour"
    ) -> Sequence[ComponentHours]:
        """Return the health of each component of a machine."""

    async def health_of_fleet(
        self, start: datetime, end: datetime, resolution: Resolution = "hour"
    ) -> Sequence[ComponentHours]:
        """Return the health of components over all machines of the caller."""

    async def reading_counts(
        self, equipment_id: str, start: datetime, end: datetime
    ) -> Sequence[tuple[datetime, int]]:
        """Return minutes with readings of a machine, and how many these are."""


class Machines(Protocol):
    """Knows machines."""

    async def known_topology(self, equipment_id: str) -> object:
        """Return the topology of a machine; raise UnknownEquipment without one."""


def add_trend_routes(
    api: FastAPI, source: HealthSource, machines: Machines, authenticator: Authenticator
) -> None:
    """Add the routes of hourly health and of readings per minute."""
    read = access(authenticator, "read")

    @api.get(
        "/v1/equipment/{equipment_id}/health",
        tags=["diagnoses"],
        summary="Health of a machine's components in hours or days of [start, end)",
        description="Means, extremes and states of the diagnoses of stored readings, in the hour "
        "in which their window ends; hours without one are left out. Also of a deleted machine.",
        dependencies=[read],
        response_model=HealthHistory,
        responses=problems(404),
    )
    async def get_health(
        equipment_id: str, start: Start = None, end: End = None, resolution: Width = "hour"
    ) -> Response:
        checked = checked_equipment_id(equipment_id)
        chosen = _interval(start, end, DEFAULT_HEALTH, LONGEST[resolution])
        await machines.known_topology(checked)
        found = await source.health_of(checked, chosen.start, chosen.end, resolution)
        answer = HealthHistory(
            equipment_id=checked,
            start=chosen.start,
            end=chosen.end,
            resolution=resolution,
            components=[ComponentHealth(**each._asdict()) for each in found],
        )
        return json_response(answer.model_dump_json().encode())

    @api.get(
        "/v1/health",
        tags=["diagnoses"],
        summary="Health of components over all machines, in hours or days of [start, end)",
        description="By component id, over all machines of the key's tenant: means and states of "
        "the diagnoses of stored readings, in the hour in which their window ends.",
        dependencies=[read],
        response_model=FleetHealth,
    )
    async def get_fleet_health(
        start: Start = None, end: End = None, resolution: Width = "hour"
    ) -> Response:
        chosen = _interval(start, end, DEFAULT_HEALTH, LONGEST[resolution])
        found = await source.health_of_fleet(chosen.start, chosen.end, resolution)
        answer = FleetHealth(
            start=chosen.start,
            end=chosen.end,
            resolution=resolution,
            components=[_of_fleet(each) for each in found],
        )
        return json_response(answer.model_dump_json().encode())

    @api.get(
        "/v1/equipment/{equipment_id}/readings/counts",
        tags=["readings"],
        summary="Readings of a machine in each minute of [start, end)",
        description="At most a day; minutes without readings are left out.",
        dependencies=[read],
        response_model=ReadingCounts,
        responses=problems(404),
    )
    async def get_reading_counts(
        equipment_id: str,
        start: Annotated[
            AwareTime | None, Query(description="an hour before `end` without it")
        ] = None,
        end: End = None,
    ) -> Response:
        checked = checked_equipment_id(equipment_id)
        chosen = _interval(start, end, DEFAULT_COUNTS, MAX_COUNTS)
        await machines.known_topology(checked)
        found = await source.reading_counts(checked, chosen.start, chosen.end)
        answer = ReadingCounts(
            equipment_id=checked,
            start=chosen.start,
            end=chosen.end,
            times=[time for time, _ in found],
            readings=[count for _, count in found],
        )
        return json_response(answer.model_dump_json().encode())


def _of_fleet(found: ComponentHours) -> FleetComponentHealth:
    columns = found._asdict()
    del columns["lowest"], columns["highest"]
    return FleetComponentHealth(**columns)


def _interval(
    start: datetime | None, end: datetime | None, default: timedelta, longest: timedelta
) -> _Interval:
    """Return the interval of a request.

    Raises:
        InputError: it is empty, too long, or outside the supported years.
    """
    until = datetime.now(UTC) if end is None else end
    since = until - default if start is None else start
    checked_interval(since, until)
    if until - since > longest:
        days = longest / timedelta(days=1)
        raise InputError(
            f"expected an interval of at most {days:g} day{'s' if days > 1 else ''}, found "
            f"{(until - since) / timedelta(days=1):g}: request it in parts, or days instead of "
            "hours",
            "start",
        )
    return _Interval(since, until)
