"""Maps errors to HTTP statuses and RFC 9457 problem documents.

A document has a stable type, the field and the trace id, and never a stack trace or a query.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.core import errors
from app.schemas.explain import explain
from app.schemas.places import place_of

TYPE_PREFIX = "urn:hydraulic-diagnostics:problem:"
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
CLIENT_GONE = 499
"""Status logged for a request whose client disconnected before its answer; nobody receives it."""
MAX_LISTED_ERRORS = 50
MAX_EXPLAINED_ERRORS = 200
"""Above this number of errors in a request only their count is reported: pydantic builds the
descriptions of all errors or of none."""


def _encodable(text: object) -> object:
    # JSON and YAML may have single surrogates, which UTF-8 can't encode
    return text.encode("utf-8", "backslashreplace").decode() if isinstance(text, str) else text


_Text = Annotated[str, BeforeValidator(_encodable)]


class FieldError(BaseModel):
    """One invalid field."""

    model_config = ConfigDict(frozen=True)

    field: Annotated[
        _Text, Field(description="dotted, list positions in brackets; empty for the whole")
    ]
    detail: Annotated[_Text, Field(description="what was expected, what was found, what to do")]


class Problem(BaseModel):
    """A problem document (RFC 9457) with the field and the trace id."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        json_schema_extra={
            "required": ["type", "title", "status", "detail", "field", "errors", "trace_id"]
        },
    )

    type: Annotated[
        str,
        Field(description="stable URN of the kind", examples=[TYPE_PREFIX + "unknown-equipment"]),
    ]
    title: Annotated[str, Field(description="the kind, for people")]
    status: Annotated[int, Field(description="the HTTP status")]
    detail: Annotated[_Text, Field(description="what was expected, what was found, what to do")]
    field: Annotated[
        _Text,
        Field(description="of the request, dotted; empty for the whole request or without a place"),
    ] = ""
    errors: Annotated[
        tuple[FieldError, ...],
        Field(description=f"the invalid fields, the first {MAX_LISTED_ERRORS} of them"),
    ] = ()
    trace_id: Annotated[
        str, Field(description="of the request, as in the logs and in `X-Trace-Id`")
    ] = ""


class _Kind(NamedTuple):
    error: type[errors.HydraulicDiagnosticsError]
    status: int
    slug: str
    title: str


_KINDS: tuple[_Kind, ...] = (
    _Kind(errors.TopologyError, 422, "topology", "The topology has errors"),
    _Kind(errors.ReadingError, 422, "readings", "The readings can't be taken"),
    _Kind(errors.UnsupportedMedia, 415, "unsupported-media", "The body's type is not supported"),
    _Kind(
        errors.UntrainedDesign, 422, "untrained-design", "The version can't answer for the design"
    ),
    _Kind(errors.WindowError, 422, "window", "The window can't be diagnosed"),
    _Kind(errors.InputError, 422, "invalid-input", "The request can't be used"),
    _Kind(errors.DeletedEquipment, 404, "deleted-equipment", "The equipment was deleted"),
    _Kind(errors.UnknownEquipment, 404, "unknown-equipment", "The equipment is not registered"),
    _Kind(errors.UnknownMaintenance, 404, "unknown-maintenance", "There is no such maintenance"),
    _Kind(errors.UnknownBaseline, 404, "unknown-baseline", "There is no such baseline"),
    _Kind(errors.UnknownDiagnosis, 404, "unknown-diagnosis", "There is no such diagnosis"),
    _Kind(errors.UnknownVersion, 404, "unknown-version", "The model version is not released"),
    _Kind(errors.UnknownTraining, 404, "unknown-training", "There is no such training"),
    _Kind(errors.UnknownError, 404, "not-found", "There is no such thing"),
    _Kind(errors.Unauthenticated, 401, "unauthenticated", "A known API key is needed"),
    _Kind(errors.Forbidden, 403, "forbidden", "The API key lacks a scope"),
    _Kind(errors.QuotaExceeded, 409, "quota", "The quota of the installation is used up"),
    _Kind(errors.RateExceeded, 429, "rate-limited", "A limit of the API key is used up"),
    _Kind(errors.ConflictError, 409, "conflict", "What is stored does not allow the change"),
    _Kind(errors.LimitExceeded, 413, "too-large", "The request is larger than the service takes"),
    _Kind(errors.BodyTimeout, 408, "body-timeout", "The body did not arrive in time"),
    _Kind(errors.DeadlineExceeded, 504, "deadline", "The request takes too long"),
    _Kind(
        errors.ReleaseConflict,
        409,
        "release-conflict",
        "Another release is in progress or has just ended",
    ),
    _Kind(
        errors.ReleasesElsewhere, 501, "releases-elsewhere", "Releases can't be changed from here"
    ),
    _Kind(errors.ReleasesUnavailable, 503, "releases-unavailable", "Releases can't be changed now"),
    _Kind(
        errors.ReleaseError, 422, "release-refused", "The release was refused; nothing has changed"
    ),
    _Kind(errors.SettingsError, 409, "settings", "The configuration file does not allow it"),
    _Kind(errors.TrainingRefused, 409, "training-refused", "The training can't be started"),
    _Kind(errors.ClusterUnavailable, 503, "cluster-unavailable", "The cluster can't be reached"),
    _Kind(errors.StoreUnavailable, 503, "store-unavailable", "The database can't be reached"),
    _Kind(errors.Overloaded, 503, "overloaded", "The service is overloaded"),
    _Kind(errors.ModelUnavailable, 503, "model-unavailable", "No model version answers"),
    _Kind(errors.StoreError, 500, "store", "The database refused"),
    _Kind(errors.CheckpointError, 500, "checkpoint", "A checkpoint can't be used"),
)


def trace_id_of(traceparent: str) -> str:
    """Return the trace id of a `traceparent` header, or a new one if the header is not valid."""
    parts = traceparent.split("-")
    if (
        len(parts) == 4
        and len(parts[1]) == 32
        and set(parts[1]) <= set("0123456789abcdef")
        and set(parts[1]) != {"0"}
    ):
        return parts[1]
    return secrets.token_hex(16)


def problem_of(error: Exception, trace_id: str) -> Problem:
    """Return the problem document of an error.

    Args:
        error: one outside the project's error tree becomes a 500 that hides its cause.
        trace_id: of the request.
    """
    if isinstance(error, ValidationError):
        count = error.error_count()
        items = error.errors(include_url=False) if count <= MAX_EXPLAINED_ERRORS else []
        return validation_problem(items, count, trace_id)
    for kind in _KINDS:
        if isinstance(error, kind.error):
            findings = getattr(error, "findings", ())[:MAX_LISTED_ERRORS]
            more: dict[str, Any] = {}
            if isinstance(error, errors.RateExceeded):
                more = {"retry_after_s": error.retry_after_s}
            return Problem(
                type=TYPE_PREFIX + kind.slug,
                title=kind.title,
                status=kind.status,
                detail=error.message,
                field=error.field,
                errors=tuple(FieldError(field=place, detail=text) for place, text in findings),
                trace_id=trace_id,
                **more,
            )
    return Problem(
        type=TYPE_PREFIX + "internal",
        title="The service failed",
        status=500,
        detail="expected an answer, found an internal error: report it with the trace id",
        trace_id=trace_id,
    )


def validation_problem(
    items: Sequence[Mapping[str, Any]], count: int, trace_id: str, skip: int = 0
) -> Problem:
    """Return the problem document of errors that pydantic found.

    Args:
        items: of `errors()`; none when there are too many.
        count: how many there are.
        trace_id: of the request.
        skip: parts of each place that are left out.
    """
    found = tuple(
        FieldError(field=place_of(item["loc"][skip:]), detail=explain(item))
        for item in items[:MAX_LISTED_ERRORS]
    )
    if found:
        more = f" (and {count - 1} more)" if count > 1 else ""
        detail = f"{found[0].field or 'body'}: {found[0].detail}{more}"
    else:
        detail = (
            f"expected a request as /docs describes it, found {count} errors: correct its layout"
        )
    return Problem(
        type=TYPE_PREFIX + "invalid-input",
        title="The request can't be used",
        status=422,
        detail=detail,
        field=found[0].field if found else "",
        errors=found,
        trace_id=trace_id,
    )


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the HTTP response of a problem, with Retry-After if the request may be tried again."""
    headers = {"x-trace-id": problem.trace_id, **(headers or {})}
    if problem.status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
    if problem.status == 429:
        headers["retry-after"] = str((problem.model_extra or {})["retry_after_s"])
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = orjson.dumps(problem.model_dump(mode="json"))
    return Response(body, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)
