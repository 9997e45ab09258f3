"""`/v1/readings` and a machine's readings: ingest, replacement, deletion, and bins for charts."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Protocol

from fastapi import FastAPI, Query, Request, Response

from app.schemas.equipment import Identifier
from app.schemas.reading_formats import ReadingOptions
from app.schemas.readings import (
    BinnedReadings,
    IngestAnswer,
    IntervalAnswer,
    ReadingChange,
    ReadingChanges,
    ReadingsBody,
)
from app.schemas.times import AwareTime
from app.serving.http.auth import Authenticator
from app.serving.http.bodies import Upload
from app.serving.http.openapi import answer_of, problems, schema_of
from app.serving.http.problems import TYPE_PREFIX, Problem, problem_response
from app.serving.http.rate_limits import RateLimiter
from app.serving.http.routes.common import (
    PageCursor,
    PageLimit,
    access,
    checked_equipment_id,
    checked_interval,
    cursor_of,
    json_response,
    read_cursor,
)
from app.store.keys import KnownKey

MAX_READINGS_BYTES = 32 * 1024 * 1024
MAX_CHART_BINS = 2_000
DEFAULT_CHART = timedelta(hours=1)

Interval = tuple[datetime, datetime]

_DESCRIPTION = """JSON, NDJSON, or CSV with a header. A CSV file is long (`equipment_id`,
`sensor_id`, `time`, `value`, in any order and case) or wide (`time` and a column for each sensor;
`equipment_id` is a column or a parameter). Cells are separated by comma, semicolon or tab; with the
last two, numbers may have a decimal comma. Without a useful Content-Type the first character
decides. Bodies may be compressed: `Content-Encoding: gzip` or `zstd`.

Each reading is accepted, stored already (`duplicates`), in conflict with another value of its
sensor and time (`conflicts`), or rejected; a bad line does not affect the others. 422 only when all
are rejected."""
_READING = {
    "equipment_id": "press-1",
    "sensor_id": "PS1",
    "time": "2026-01-31T12:00:00Z",
    "value": 151.5,
}
_NDJSON = (
    '{"equipment_id":"press-1","sensor_id":"PS1","time":"2026-01-31T12:00:00Z","value":151.5}\n'
)


def _example(summary: str, value: object) -> dict[str, object]:
    return {"summary": summary, "value": value}


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": schema_of(ReadingsBody),
                "examples": {
                    "one": _example("one reading", _READING),
                    "list": _example("a list", [_READING]),
                    "object": _example("an object with a list", {"readings": [_READING]}),
                },
            },
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "a `Reading` as JSON on each line"},
                "examples": {"lines": _example("a reading a line", _NDJSON)},
            },
            "text/csv": {
                "schema": {
                    "type": "string",
                    "description": "a header, then a reading on each line",
                },
                "examples": {
                    "long": _example(
                        "long: a reading a line",
                        "equipment_id,sensor_id,time,value\n"
                        "press-1,PS1,2026-01-31T12:00:00Z,151.5\n",
                    ),
                    "wide": _example(
                        "wide: a column for each sensor",
                        "equipment_id;time;PS1;TS1\npress-1;2026-01-31T12:00:00Z;151,5;40,25\n",
                    ),
                },
            },
        },
    }
}

IgnoreColumns = Annotated[
    list[str],
    Query(max_length=100, description="columns of CSV that are not read, by name, also in a list"),
]
Start = Annotated[AwareTime, Query(description="of the interval [start, end)")]
End = Annotated[AwareTime, Query(description="of the interval [start, end)")]


class Readings(Protocol):
    """Stores and reads readings; errors are those of `app.core.errors`."""

    async def ingest(
        self,
        upload: Upload,
        options: ReadingOptions,
        replaced_by: str | None = None,
    ) -> IngestAnswer:
        """Store a body of readings; accepted readings are committed on return."""

    async def replace(
        self,
        equipment_id: str,
        interval: Interval,
        upload: Upload,
        ignore_columns: frozenset[str],
        actor: str,
    ) -> IntervalAnswer:
        """Replace a machine's readings of an interval by those of a body, all or nothing."""

    async def delete(self, equipment_id: str, interval: Interval, actor: str) -> IntervalAnswer:
        """Delete a machine's readings of an interval."""

    async def changes(
        self, equipment_id: str, before: int | None, limit: int
    ) -> Sequence[ReadingChange]:
        """Return recorded changes of a machine's readings, newest first."""

    async def binned(
        self, equipment_id: str, interval: Interval, sensor_ids: Sequence[str], bins: int
    ) -> BinnedReadings:
        """Return statistics of sensors in bins of an interval."""


def add_reading_routes(
    api: FastAPI, readings: Readings, authenticator: Authenticator, limiter: RateLimiter
) -> None:
    """Add the routes of readings."""

    @api.post(
        "/v1/readings",
        tags=["readings"],
        summary="Store readings; idempotent on (equipment, sensor, time)",
        description=_DESCRIPTION,
        dependencies=[access(authenticator, "ingest")],
        openapi_extra=_BODY,
        response_model=IngestAnswer,
        response_model_exclude_none=True,
        responses=problems(415)
        | answer_of(
            IngestAnswer,
            status=202,
            description="The database is away: the readings are safe on disk, see `spooled`",
        ),
        response_description="Accepted readings are committed; see `rejected` for others",
    )
    async def post_readings(
        request: Request,
        response: Response,
        on_conflict: Annotated[
            Literal["keep", "replace"],
            Query(
                description="what happens when a sensor and time has another value: it is kept, "
                "or replaced (scope `admin`, recorded)"
            ),
        ] = "keep",
        equipment_id: Annotated[
            Identifier | None,
            Query(description="of all readings; CSV needs no column for it then"),
        ] = None,
        ignore_columns: IgnoreColumns = [],  # noqa: B006 - FastAPI copies it
    ) -> Response | IngestAnswer:
        replaced_by = None
        if on_conflict == "replace":
            replaced_by = (await authenticator.require(request.headers, "admin")).name
        key: KnownKey = request.state.key
        limiter.check(key, "readings")
        answer = await readings.ingest(
            Upload.of(request, MAX_READINGS_BYTES),
            ReadingOptions(equipment_id, _names(ignore_columns)),
            replaced_by,
        )
        stored = answer.accepted + answer.duplicates + answer.conflicts + answer.replaced
        stored += answer.spooled
        refused = answer.rejected_count or len(answer.rejected)
        limiter.add(key, "readings", stored + refused)
        if answer.rejected and not stored:
            return problem_response(_all_rejected(answer, request.scope["trace_id"]))
        if answer.spooled:
            response.status_code = 202
        return answer

    @api.put(
        "/v1/equipment/{equipment_id}/readings",
        tags=["readings"],
        summary="Replace all readings of an interval by the body, in one transaction",
        description="All or nothing: a rejected line, one outside the interval or two values of a "
        "sensor and time refuse the body. At most 31 days. The change is recorded.",
        dependencies=[access(authenticator, "admin")],
        openapi_extra=_BODY,
        responses=problems(404, 415),
    )
    async def replace_readings(
        equipment_id: str,
        request: Request,
        start: Start,
        end: End,
        ignore_columns: IgnoreColumns = [],  # noqa: B006 - FastAPI copies it
    ) -> IntervalAnswer:
        return await readings.replace(
            checked_equipment_id(equipment_id),
            _checked(start, end),
            Upload.of(request, MAX_READINGS_BYTES),
            _names(ignore_columns),
            request.state.key_name,
        )

    @api.delete(
        "/v1/equipment/{equipment_id}/readings",
        tags=["readings"],
        summary="Delete all readings of an interval",
        description="At most 31 days. The change is recorded.",
        dependencies=[access(authenticator, "admin")],
        responses=problems(404),
    )
    async def delete_readings(
        equipment_id: str, request: Request, start: Start, end: End
    ) -> IntervalAnswer:
        return await readings.delete(
            checked_equipment_id(equipment_id), _checked(start, end), request.state.key_name
        )

    @api.get(
        "/v1/equipment/{equipment_id}/readings",
        tags=["readings"],
        summary="Mean, least and largest value and count of each sensor in bins, for charts",
        dependencies=[access(authenticator, "read")],
        response_model=BinnedReadings,
        responses=problems(404),
    )
    async def get_readings(
        equipment_id: str,
        start: Annotated[
            AwareTime | None, Query(description="an hour before `end` without it")
        ] = None,
        end: Annotated[AwareTime | None, Query(description="now without it")] = None,
        sensors: Annotated[
            list[str], Query(max_length=2_048, description="sensor ids, also in a list; else all")
        ] = [],  # noqa: B006 - FastAPI copies it
        bins: Annotated[
            int, Query(ge=1, le=MAX_CHART_BINS, description="most bins; 50,000 over all sensors")
        ] = 200,
    ) -> Response:
        checked_interval(start, end)
        until = end or datetime.now(UTC)
        found = await readings.binned(
            checked_equipment_id(equipment_id),
            _checked(start or until - DEFAULT_CHART, until),
            [name for name in _split(sensors) if name],
            bins,
        )
        # encoded once: FastAPI would copy the lists first
        return json_response(found.model_dump_json().encode())

    @api.get(
        "/v1/equipment/{equipment_id}/readings/changes",
        tags=["readings"],
        summary="Replaced and deleted readings: who, when and how many; newest first",
        dependencies=[access(authenticator, "read")],
        responses=problems(404),
    )
    async def get_reading_changes(
        equipment_id: str, limit: PageLimit = 100, cursor: PageCursor = None
    ) -> ReadingChanges:
        place = read_cursor(cursor, tuple[int])
        before = None if place is None else place[0]
        found = await readings.changes(checked_equipment_id(equipment_id), before, limit + 1)
        more = cursor_of(found[limit - 1].change_id) if len(found) > limit else None
        return ReadingChanges(changes=list(found[:limit]), next_cursor=more)


def _split(names: Sequence[str]) -> list[str]:
    return [name.strip() for listed in names for name in listed.split(",")]


def _names(listed: Sequence[str]) -> frozenset[str]:
    return frozenset(_split(listed)) - {""}


def _checked(start: datetime, end: datetime) -> Interval:
    checked_interval(start, end)
    return start, end


def _all_rejected(answer: IngestAnswer, trace_id: str) -> Problem:
    first = answer.rejected[0]
    return Problem.model_validate(
        {
            "type": TYPE_PREFIX + "readings",
            "title": "No reading could be taken",
            "status": 422,
            "detail": f"line {first.line}: {first.reason}",
            "field": first.field,
            "trace_id": trace_id,
            **answer.model_dump(exclude_none=True),
        }
    )
