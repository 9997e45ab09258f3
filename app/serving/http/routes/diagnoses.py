"""`/v1/diagnoses`: diagnoses one machine or a batch, and returns stored diagnoses."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, NamedTuple, Protocol

import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, Field, StringConstraints, ValidationError
from pydantic_core import from_json

from app.core.errors import InputError, LimitExceeded, UnknownDiagnosis
from app.schemas.diagnosis import MAX_BATCH_ITEMS, BatchRequest, Diagnosis, DiagnosisRequest
from app.schemas.places import shown
from app.schemas.times import EARLIEST, LATEST, AwareTime
from app.serving.fastpath.direct_routes import DirectRoute
from app.serving.http.auth import Authenticator
from app.serving.http.batch_stream import BatchStream, Outcomes, limit_of
from app.serving.http.openapi import answer_of, body_of, problems
from app.serving.http.problems import Problem
from app.serving.http.rate_limits import RateLimiter
from app.serving.http.routes.common import (
    Interval,
    NextCursor,
    PageCursor,
    PageLimit,
    access,
    checked_equipment_id,
    checked_interval,
    cursor_of,
    json_response,
    read_body,
    read_cursor,
    refuse_unknown_query,
)
from app.serving.observability import tracing
from app.store.keys import KnownKey

MAX_DIAGNOSIS_BYTES = 8 * 1024 * 1024
TURN_S = 0.002
"""Time of parsing items before other requests get a turn on the event loop."""
MAX_BATCH_BYTES = 32 * 1024 * 1024

Charge = Callable[[int], None]
"""Counts the cost of a diagnosis; raises RateExceeded."""

_BEGIN = re.compile(r'[ \t\r\n]*\{[ \t\r\n]*"items"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*')
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_END = re.compile(r"[ \t\r\n]*\][ \t\r\n]*\}[ \t\r\n]*\Z")
_LIST_END = re.compile(r"[ \t\r\n]*\][ \t\r\n]*(?=[,\w\"])")
_DECODER = json.JSONDecoder()
SHOWN = 60
"""Characters of a body that a message repeats."""

_LOW_URGENCY = re.compile(r"(?:^|,)\s*u\s*=\s*[67]\s*(?:[,;]|$)")

_DIAGNOSIS_ID = re.compile("[0-9a-f]{32}")


class _HistoryPlace(NamedTuple):
    end: Annotated[AwareDatetime, Field(ge=EARLIEST, le=LATEST)]
    diagnosis_id: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]


class HistoryPage(BaseModel):
    """Stored diagnoses of a machine by window end, then by id, both falling."""

    diagnoses: Annotated[list[Diagnosis], Field(description="as they were answered")]
    next_cursor: NextCursor = None


class DiagnosisLine(BaseModel):
    """A line of a batch: the diagnosis of one item."""

    index: Annotated[int, Field(ge=0, description="of the item, from 0")]
    diagnosis: Annotated[Diagnosis, Field(description="of the item")]


class ErrorLine(BaseModel):
    """A line of a batch: why one item has no diagnosis."""

    index: Annotated[int, Field(ge=0, description="of the item, from 0")]
    error: Annotated[Problem, Field(description="the problem that a request of its own would get")]


class BatchCounts(BaseModel):
    """How many items of a batch have a diagnosis."""

    items: Annotated[int, Field(ge=0, description="of the request")]
    diagnosed: Annotated[int, Field(ge=0, description="that have a diagnosis")]
    failed: Annotated[int, Field(ge=0, description="that have an error")]


class SummaryLine(BaseModel):
    """The last line of a batch; a stream without it was cut off."""

    summary: Annotated[BatchCounts, Field(description="of all items")]


_INLINE = {
    "equipment_id": "hydraulic-rig",
    "readings": {
        "start": "2026-01-01T00:00:00Z",
        "step_s": 1.0,
        "values": {"PS1": [151.4, 151.2, None], "TS1": [35.6, 35.6, 35.7]},
    },
}
_QUESTIONS = {
    "last complete window": {"equipment_id": "hydraulic-rig"},
    "window that ends at a time, with evidence": {
        "equipment_id": "hydraulic-rig",
        "at": "2026-01-01T00:01:00Z",
        "explain": True,
    },
    "readings of the request": _INLINE,
}


class DiagnosisService(Protocol):
    """Makes and finds diagnoses; errors are those of `app.core.errors`."""

    def check_load(self) -> None:
        """Refuse a request while those before it wait too long."""

    async def answer(
        self, request: DiagnosisRequest, charge: Charge, *, background: bool = False
    ) -> bytes:
        """Return the diagnosis of one request as JSON."""

    def answer_many(
        self,
        items: Sequence[DiagnosisRequest | Exception],
        limit_s: float,
        charge: Charge,
        *,
        background: bool = False,
    ) -> Outcomes:
        """Yield lists of (index, outcome) of many requests as they become ready, for this long."""

    async def stored_diagnosis(self, diagnosis_id: str) -> bytes:
        """Return a diagnosis by its id as JSON."""

    async def history(
        self,
        equipment_id: str,
        interval: Interval,
        limit: int,
        after: tuple[datetime, str] | None = None,
    ) -> Sequence[bytes]:
        """Return the diagnoses whose window ends in an interval as JSON, newest first."""


def add_diagnosis_routes(
    api: FastAPI, service: DiagnosisService, authenticator: Authenticator, limiter: RateLimiter
) -> None:
    """Add the routes of diagnoses."""

    async def post_diagnosis(request: Request) -> bytes:
        with tracing.span("read request"):
            await refuse_unknown_query(request)
            key = await authenticator.require(request.headers, "diagnose")
            limiter.begin(request.scope, key)
            background = _is_background(request)
            if not background:
                service.check_load()
            body = await read_body(request, MAX_DIAGNOSIS_BYTES)
            charge = partial(limiter.charge, key, "diagnoses")
            parsed = DiagnosisRequest.model_validate_json(body)
        return await service.answer(parsed, charge, background=background)

    api.router.add_api_route(
        "/v1/diagnoses",
        post_diagnosis,
        methods=["POST"],
        tags=["diagnoses"],
        summary="Diagnose a machine from its stored readings, or from readings given inline",
        dependencies=[access(authenticator, "diagnose")],
        openapi_extra=body_of(DiagnosisRequest, examples=_QUESTIONS),
        responses=answer_of(Diagnosis, description="The diagnosis, which may abstain")
        | problems(504, s404="The machine is not registered, or the version is not released"),
        response_model=None,
        route_class_override=DirectRoute,
    )

    @api.post(
        "/v1/diagnoses/batch",
        tags=["diagnoses"],
        summary="Diagnose many machines; one NDJSON line for each item with its index, "
        "as it is ready, and a summary line",
        dependencies=[access(authenticator, "diagnose")],
        openapi_extra=body_of(
            BatchRequest,
            examples={"two machines": {"items": [{"equipment_id": "hydraulic-rig"}, _INLINE]}},
        ),
        responses=answer_of(
            DiagnosisLine,
            ErrorLine,
            SummaryLine,
            media_type="application/x-ndjson",
            description="One JSON object a line, in order of readiness, the summary last",
        ),
        response_class=StreamingResponse,
    )
    async def post_batch(request: Request) -> Response:
        key: KnownKey = request.state.key
        limiter.check(key, "diagnoses")
        items = await parse_batch(await read_body(request, MAX_BATCH_BYTES))
        charge = partial(limiter.charge, key, "diagnoses")
        limit_s, background = limit_of(request.scope), _is_background(request)
        outcomes = service.answer_many(items, limit_s, charge, background=background)
        return BatchStream(outcomes, len(items), request.scope["trace_id"])

    @api.get(
        "/v1/diagnoses/{diagnosis_id}",
        tags=["diagnoses"],
        summary="A stored diagnosis",
        dependencies=[access(authenticator, "read")],
        responses=answer_of(Diagnosis) | problems(404),
    )
    async def get_diagnosis(diagnosis_id: str) -> Response:
        if not _DIAGNOSIS_ID.fullmatch(diagnosis_id):
            raise UnknownDiagnosis(
                f"expected the id of a stored diagnosis, found {shown(diagnosis_id)}: "
                "list a machine's with GET /v1/equipment/{equipment_id}/diagnoses",
                "diagnosis_id",
            )
        return json_response(await service.stored_diagnosis(diagnosis_id))

    @api.get(
        "/v1/equipment/{equipment_id}/diagnoses",
        tags=["diagnoses"],
        summary="A machine's diagnoses whose window ends in [start, end), newest first",
        description="In the order of window end, then of `diagnosis_id`, both falling: pages skip "
        "and repeat nothing, also where windows end at the same time. Diagnoses of a machine that "
        "was deleted are returned too.",
        dependencies=[access(authenticator, "read")],
        responses=answer_of(HistoryPage) | problems(404),
    )
    async def get_history(
        equipment_id: str,
        start: Annotated[AwareTime | None, Query()] = None,
        end: Annotated[AwareTime | None, Query()] = None,
        limit: PageLimit = 100,
        cursor: PageCursor = None,
    ) -> Response:
        found = await service.history(
            checked_equipment_id(equipment_id),
            checked_interval(start, end),
            limit + 1,
            read_cursor(cursor, _HistoryPlace),
        )
        more = None
        if len(found) > limit:
            last = from_json(found[limit - 1])
            more = cursor_of(last["window"]["end"], last["diagnosis_id"])
        listed = b",".join(found[:limit])
        return json_response(b'{"diagnoses":[%b],"next_cursor":%b}' % (listed, orjson.dumps(more)))


def _is_background(request: Request) -> bool:
    """Return whether a request has the urgency 6 or 7 of RFC 9218, the lowest ones."""
    given = request.headers.get("priority")
    return given is not None and _LOW_URGENCY.search(given) is not None


async def parse_batch(body: bytes) -> list[DiagnosisRequest | Exception]:
    """Parse the body of a batch into its requests; an invalid item becomes its error.

    Items are parsed and validated in turns with other requests; one item is not divided.

    Raises:
        InputError: the body as a whole is no batch.
        LimitExceeded: it has more than `MAX_BATCH_ITEMS` items.
    """
    found: list[DiagnosisRequest | Exception] = []
    turn_ends = time.perf_counter() + TURN_S
    for item in _items(body):
        if len(found) == MAX_BATCH_ITEMS:
            raise LimitExceeded(
                f"expected at most {MAX_BATCH_ITEMS} items, found more: send several batches",
                "items",
            )
        found.append(_parse_item(item))
        if time.perf_counter() > turn_ends:
            await asyncio.sleep(0)
            turn_ends = time.perf_counter() + TURN_S
    if not found:
        raise InputError("expected at least one item, found an empty list: add one", "items")
    return found


def _items(body: bytes) -> Iterator[object]:
    """Parse the items of a batch one by one.

    Raises:
        InputError: the body is no JSON object with a list `items` and nothing else.
    """
    place = 0
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected JSON in UTF-8, found other bytes at position {error.start}: encode the body "
            "as UTF-8"
        ) from error
    try:
        begin = _BEGIN.match(text)
        if begin is None:
            raise _other_layout(text, place)
        place = begin.end()
        is_last = _END.match(text, place) is not None
        while not is_last:
            item, place = _DECODER.raw_decode(text, place)
            yield item
            place, is_last = _after_item(text, place)
    except ValueError as error:
        raise InputError(f"expected JSON, found text that does not parse: {error}") from error
    except RecursionError as error:
        raise InputError(
            f"expected JSON of a few levels, found deeper nesting after character {place}: send "
            "the items flat",
            "items",
        ) from error


def _after_item(text: str, place: int) -> tuple[int, bool]:
    """Return where the next item begins, and whether there is none.

    Raises:
        ValueError: neither another item nor the end of the list follows.
        InputError: the object has more than the list.
    """
    if _END.match(text, place):
        return place, True
    comma = _COMMA.match(text, place)
    if comma is None and (end := _LIST_END.match(text, place)):
        raise _other_layout(text, end.end())
    if comma is None:
        found = shown(text[place : place + SHOWN])
        raise ValueError(f"`,` or `]}}` missing at character {place}, before {found}")
    return comma.end(), False


def _other_layout(text: str, place: int) -> InputError:
    found = f"{shown(text[place : place + SHOWN])} at character {place}"
    return InputError(
        f"expected an object with a list `items` and nothing else, found {found}", "items"
    )


def _parse_item(item: object) -> DiagnosisRequest | Exception:
    try:
        return DiagnosisRequest.model_validate(item)
    except ValidationError as error:
        return error
